"""The pages at the origins of services."""

from __future__ import annotations

from broker.errors import ConflictError
from broker.schema.web import VisitAnswer
from broker.web.portal.service_pages import PortalServicePages
from tests.fakes.portal_browser import ORIGINS, PORTAL

VISIT = VisitAnswer(
    id="0" * 26,
    secret="v" * 43,
    delegation_id="0" * 26,
    user="alice",
    owner="alice",
    session_id="0" * 26,
    session="dev",
    service="jupyter",
    host="jupyter--dev--alice.apps.example.org",
    expires_at=4e9,
)
PAGES = PortalServicePages(ORIGINS)
MARKUP = "<script>alert(1)</script>"


def test_starting_page_shows_progress_and_reloads() -> None:
    page = PAGES.start_page(VISIT, [f"line {MARKUP}"])
    text = bytes(page.body).decode()
    assert page.headers["refresh"] == "2"
    assert "<h1>jupyter is starting</h1>" in text
    assert "line &lt;script&gt;" in text
    assert MARKUP not in text
    assert f'href="{PORTAL}/sessions/dev"' in text


def test_guest_sees_neither_lines_nor_reasons_nor_a_link_to_the_session() -> None:
    guest = VISIT.model_copy(update={"user": "bob"})
    error = ConflictError("dev is queued: SECRET", hint="SECRET")
    for page in (PAGES.start_page(guest, ["SECRET"]), PAGES.failure_page(guest, error, ["SECRET"])):
        text = bytes(page.body).decode()
        assert "SECRET" not in text
        assert "/sessions/dev" not in text
        assert "<code>berth open alice.dev jupyter</code>" in text
    assert "alice sees why" in text


def test_unavailable_page_says_state_and_last_lines_and_does_not_reload() -> None:
    error = ConflictError(f"dev is stopped {MARKUP}", hint="`berth start dev` starts it")
    page = PAGES.failure_page(VISIT, error, ["no module named jupyterlab"])
    text = bytes(page.body).decode()
    assert "refresh" not in page.headers
    assert "dev is stopped &lt;script&gt;" in text
    assert "<code>berth start dev</code> starts it" in text
    assert "no module named jupyterlab" in text
    assert "<code>berth show dev</code>" in text


def test_refused_page_leads_to_portal() -> None:
    text = bytes(PAGES.refusal_page(ConflictError("this way into the service was used")).body).decode()
    assert "this way into the service was used" in text
    assert f'href="{PORTAL}/"' in text


def test_page_takes_its_style_from_portal_alone() -> None:
    policy = PAGES.start_page(VISIT, []).headers["content-security-policy"]
    assert f"style-src {PORTAL};" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
