"""The pages at the origins of services."""

from __future__ import annotations

from broker.errors import ConflictError
from broker.schema.web import VisitAnswer
from broker.web.portal.service_pages import ServicePages
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
PAGES = ServicePages(ORIGINS)
MARKUP = "<script>alert(1)</script>"


def test_starting_page_shows_progress_and_reloads() -> None:
    page = PAGES.starting(VISIT, f"starting for 3 s {MARKUP}", [f"line {MARKUP}"])
    text = bytes(page.body).decode()
    assert (page.status_code, page.headers["refresh"], page.headers["cache-control"]) == (200, "2", "no-store")
    assert "<h1>jupyter is starting</h1>" in text
    assert "Starting for 3 s &lt;script&gt;" in text
    assert "line &lt;script&gt;" in text
    assert MARKUP not in text
    assert f'href="{PORTAL}/sessions/dev"' in text


def test_failed_page_shows_last_lines_and_does_not_reload() -> None:
    page = PAGES.failed(VISIT, "the command ended with 1", ["no module named jupyterlab"])
    assert page.status_code == 502
    assert "refresh" not in page.headers
    assert "no module named jupyterlab" in bytes(page.body).decode()


def test_unavailable_page_says_state_and_hint() -> None:
    page = PAGES.unavailable(VISIT, ConflictError("dev is stopped", hint="`berth start dev` starts it"))
    text = bytes(page.body).decode()
    assert page.status_code == 409
    assert "Dev is stopped" in text
    assert "<code>berth start dev</code> starts it" in text


def test_unavailable_page_without_visit_leads_to_portal() -> None:
    text = bytes(PAGES.unavailable(None, ConflictError("the visit has ended")).body).decode()
    assert f'href="{PORTAL}/"' in text


def test_page_takes_its_style_from_portal_alone() -> None:
    policy = PAGES.starting(VISIT, "starting").headers["content-security-policy"]
    assert f"style-src {PORTAL};" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
