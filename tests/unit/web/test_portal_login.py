"""Logging in by link and by code, logging out, and the way to the origins of services."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from broker.errors import ConflictError, NotFoundError, RefusedError, TooManyError
from tests.fakes.portal_controller import SECRET

if TYPE_CHECKING:
    from tests.fakes.portal_browser import PortalBrowser

HOST = "jupyter--dev--alice.apps.example.org"
ENTRY_COOKIE = "entry-of-the-browser"
ENTRY = sha256(ENTRY_COOKIE.encode()).hexdigest()


def test_login_page_asks_for_code_and_loads_script(browser: PortalBrowser) -> None:
    browser.cookie = ""
    text = browser.get("/login?next=/start").text
    assert '<input type="hidden" name="next" value="/start">' in text
    assert '<label for="proof">Code</label>' in text
    assert '<script src="/static/login.js" defer></script>' in text
    assert '<form id="login" method="post" action="/login/check"' in text


@pytest.mark.parametrize("typed", ["ABCDE-FGHJK", " abcde fghjk ", "s" * 43])
def test_user_is_asked_whose_login_it_is_before_anything_changes(browser: PortalBrowser, typed: str) -> None:
    browser.cookie = ""
    browser.controller.target = {"session": "dev", "service": "jupyter"}
    answer = browser.post("/login/check", {"proof": typed, "next": "/start"})
    proof = "".join(typed.split())
    ((path, sent),) = browser.controller.sent("POST")
    assert (path, sent["proof"]) == ("/v1/web/links/check", proof)
    assert "set-cookie" not in answer.headers
    assert "Log in as alice?" in answer.text
    assert "opens jupyter of the session dev" in answer.text
    assert "logged in already" not in answer.text
    for name, value in (("proof", proof), ("next", "/start")):
        assert f'<input type="hidden" name="{name}" value="{value}">' in answer.text


def test_user_is_told_that_another_login_is_replaced(browser: PortalBrowser) -> None:
    assert "logged in already" in browser.post("/login/check", {"proof": "s" * 43}).text


def test_form_of_another_page_learns_and_changes_nothing(browser: PortalBrowser) -> None:
    for path in ("/login/check", "/login"):
        sibling = {"Origin": "https://jupyter--dev--bob.apps.example.org", "Sec-Fetch-Site": "same-site"}
        assert browser.post(path, {"proof": "s" * 43}, sibling).status_code == 403
    assert not browser.controller.calls


@pytest.mark.parametrize("typed", ["ABCDE-FGHJK", " abcde fghjk ", "s" * 43])
def test_proof_is_exchanged_for_cookie_of_portal_alone(browser: PortalBrowser, typed: str) -> None:
    browser.cookie = ""
    answer = browser.post("/login", {"proof": typed})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    name, _, rest = answer.headers["set-cookie"].partition("=")
    value, *attributes = rest.split("; ")
    assert (name, value) == ("__Host-Http-berth-portal", SECRET)
    assert {"HttpOnly", "Secure", "Path=/", "SameSite=lax"} <= set(attributes)
    assert not any(each.startswith("Domain") for each in attributes)
    assert browser.controller.sent("POST")[0][1]["proof"] == "".join(typed.split())


def test_controller_hears_browser_and_address(browser: PortalBrowser) -> None:
    origin = {"Origin": "https://portal.apps.example.org", "User-Agent": "Fire\tfox " + "x" * 300}
    browser.post("/login", {"proof": "ABCDE-FGHJK"}, origin | {"X-Berth-Address": "2001:db8::7"})
    browser.post("/login", {"proof": "ABCDE-FGHJK"}, origin | {"X-Berth-Address": "<script>"})
    first, second = (body for _, body in browser.controller.sent("POST"))
    assert first["address"] == "2001:db8::7"
    assert first["browser"].startswith("Fire?fox ")
    assert len(first["browser"]) == 200
    assert "address" not in second


@pytest.mark.parametrize("proof", ["", "short", "x" * 65, "<script>alert(1)</script>", "ABCDE/FGHJK"])
@pytest.mark.parametrize("path", ["/login/check", "/login"])
def test_invalid_code_is_refused_in_place(browser: PortalBrowser, path: str, proof: str) -> None:
    answer = browser.post(path, {"proof": proof, "next": "/start"})
    assert answer.status_code == 422
    assert "this is not a code" in answer.text
    assert 'name="next" value="/start"' in answer.text
    assert "<script>alert" not in answer.text
    assert not browser.controller.calls
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("failure", "status"),
    [(RefusedError("this link was used", hint="`berth portal` prints another"), 403), (TooManyError("too many"), 429)],
)
def test_refused_code_is_shown_with_hint(browser: PortalBrowser, failure: RefusedError, status: int) -> None:
    for call, path in (("/v1/web/links/check", "/login/check"), ("/v1/web/delegations", "/login")):
        browser.controller.failures[("POST", call)] = failure
        answer = browser.post(path, {"proof": "ABCDE-FGHJK"})
        assert answer.status_code == status
        assert failure.message in answer.text
        assert "set-cookie" not in answer.headers


def test_link_with_target_leads_to_service(browser: PortalBrowser) -> None:
    browser.controller.target = {"session": "dev", "service": "jupyter"}
    assert browser.post("/login", {"proof": "s" * 43}).headers["location"] == f"https://{HOST}/"


def test_link_to_a_shared_service_leads_to_its_origin_and_asks_for_no_session(browser: PortalBrowser) -> None:
    host = "board--dev--carol.apps.example.org"
    browser.controller.target = {"session": "carol.dev", "service": "board"}
    assert browser.post("/login", {"proof": "s" * 43}).headers["location"] == "/"
    browser.controller.shared = [
        {"session": "carol.dev", "service": "board", "host": host, "is_open": True, "via": "alice"}
    ]
    assert browser.post("/login", {"proof": "s" * 43}).headers["location"] == f"https://{host}/"
    assert not [path for method, path, _ in browser.controller.calls if "/v1/sessions" in path]


def test_link_with_target_that_is_gone_leads_to_its_page(browser: PortalBrowser) -> None:
    browser.controller.target = {"session": "gone", "service": "jupyter"}
    answer = browser.post("/login", {"proof": "s" * 43})
    assert answer.headers["location"] == "/sessions/gone"
    assert SECRET in answer.headers["set-cookie"]


@pytest.mark.parametrize(("closed", "text"), [(True, "logged out.</p>"), (False, "closed within a minute")])
def test_logout_ends_delegation_and_cookie(browser: PortalBrowser, closed: bool, text: str) -> None:
    browser.controller.closed = closed
    answer = browser.post("/logout")
    assert browser.controller.sent("DELETE") == [("/v1/web/delegation", {})]
    assert "Max-Age=0" in answer.headers["set-cookie"]
    browser.cookie = ""
    assert text in browser.get(answer.headers["location"]).text


@pytest.mark.parametrize("cookie", ["", "__Host-Http-berth-portal=ended-12345"])
def test_logout_without_login_is_no_error(browser: PortalBrowser, cookie: str) -> None:
    browser.cookie = cookie
    assert browser.post("/logout").headers["location"] == "/login?out=yes"


def test_open_leads_back_to_service_with_code_for_this_browser(browser: PortalBrowser) -> None:
    path = "/lab?x=1&y=/a"
    answer = browser.get(f"/open?host={HOST}&path={quote(path, safe='')}&entry={ENTRY}")
    assert answer.status_code == 303
    address = urlsplit(answer.headers["location"])
    assert (address.scheme, address.netloc, address.path) == ("https", HOST, "/.berth/enter")
    fields = parse_qs(address.query)
    assert fields["path"] == [path]
    assert browser.controller.sent("POST") == [("/v1/web/visits", {"host": HOST})]
    visit = browser.entrances.enter(HOST, fields["code"][0], ENTRY_COOKIE)
    assert (visit.session, visit.service) == ("dev", "jupyter")


def test_open_without_login_asks_for_it_and_returns(browser: PortalBrowser) -> None:
    browser.cookie = ""
    address = f"/open?host={HOST}&path=/lab&entry={ENTRY}"
    location = browser.get(address).headers["location"]
    assert parse_qs(urlsplit(location).query)["next"] == [address]


@pytest.mark.parametrize("entry", ["", "e" * 63, "E" * 64, "e" * 64 + "\n"])
def test_open_needs_entry_of_service(browser: PortalBrowser, entry: str) -> None:
    assert browser.get(f"/open?host={HOST}&path=/&entry={quote(entry)}").status_code == 422
    assert not browser.controller.calls


@pytest.mark.parametrize("kind", ["iframe", "image", "empty", "script"])
def test_open_inside_another_page_is_refused(browser: PortalBrowser, kind: str) -> None:
    address = f"/open?host={HOST}&path=/&entry={ENTRY}"
    assert browser.get(address, {"Sec-Fetch-Dest": kind}).status_code == 403
    assert not browser.controller.calls
    assert browser.get(address, {"Sec-Fetch-Dest": "document"}).status_code == 303


@pytest.mark.parametrize(
    "failure",
    [NotFoundError("you have no session dev", hint="`berth list`"), ConflictError("dev is queued", hint="wait")],
)
def test_open_shows_refusal_of_controller(browser: PortalBrowser, failure: ConflictError) -> None:
    browser.controller.failures[("POST", "/v1/web/visits")] = failure
    answer = browser.get(f"/open?host={HOST}&path=/&entry={ENTRY}")
    assert answer.status_code == failure.status
    assert failure.message in answer.text
    assert "location" not in answer.headers
