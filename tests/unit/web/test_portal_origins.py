"""Requests that other origins make, and addresses that lead away from the portal."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from broker.web.local_paths import is_local_path
from broker.web.portal.protection import MAX_FORM_BYTES
from tests.fakes.portal_browser import PORTAL, PortalBrowser

FORMS = [
    "/login",
    "/logout",
    "/start",
    "/sessions/dev/stop",
    "/sessions/dev/switch",
    "/browsers/logout",
    "/browsers/00000000000000000000000000/logout",
    "/nothing",
]
SIBLING = "https://jupyter--dev--bob.apps.example.org"
FOREIGN: list[dict[str, str]] = [
    {},
    {"Origin": SIBLING},
    {"Origin": SIBLING, "Sec-Fetch-Site": "same-site"},
    {"Origin": "null"},
    {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://portal.apps.example.org"},
    {"Origin": "https://portal.apps.example.org.evil.example"},
    {"Origin": "https://portal.apps.example.org:8443"},
    {"Origin": "https://PORTAL.apps.example.org"},
    {"Origin": f"{PORTAL}/"},
    {"Origin": f"{PORTAL}, {SIBLING}"},
    {"Origin": PORTAL, "Sec-Fetch-Site": "same-site"},
    {"Origin": PORTAL, "Sec-Fetch-Site": "cross-site"},
    {"Origin": PORTAL, "Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "none"},
    {"Referer": f"{PORTAL}/"},
]
OWN = [{"Origin": PORTAL}, {"Origin": PORTAL, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "same-origin"}]

FOREIGN_PATHS = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example/",
    "javascript:alert(1)",
    "evil",
    "",
    "/a\r\nSet-Cookie: x=1",
    "/a\tb",
    "/\x00",
    "/a b",
    "/ä",
    "/" + "a" * 5000,
]
LOCAL_PATHS = ["/", "/lab/tree/a.ipynb?x=1&y=%20", "/a//b", "/?next=https://evil.example", "/@x:y"]

ENTRY = "e" * 64
FOREIGN_HOSTS = [
    "",
    "evil.example",
    "apps.example.org",
    "portal.apps.example.org",
    "a.b.apps.example.org",
    "jupyter--dev--alice.apps.example.org.evil.example",
    "evil.example/.apps.example.org",
    "evil.example#.apps.example.org",
    "user@x.apps.example.org",
    "JUPYTER--dev--alice.apps.example.org",
    "jupyter--dev--alice.apps.example.org:8443",
    ".apps.example.org",
]


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_form_of_another_origin_is_refused(browser: PortalBrowser, path: str, headers: dict[str, str]) -> None:
    answer = browser.post(path, {"proof": "ABCDE-FGHJK", "confirmed": "yes"}, headers)
    assert answer.status_code == 403
    assert "the form was not sent by a page of this portal" in answer.text
    assert not browser.controller.calls


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_form_of_portal_is_accepted(browser: PortalBrowser, headers: dict[str, str]) -> None:
    assert browser.post("/sessions/dev/stop", {}, headers).status_code == 303


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_change_nothing(browser: PortalBrowser, method: str) -> None:
    assert browser.request(method, "/sessions/dev/stop", headers={"Origin": PORTAL}).status_code == 405
    assert browser.request(method, "/sessions/dev/stop", headers={}).status_code == 403
    assert not browser.controller.calls


@pytest.mark.parametrize("path", ["/logout", "/sessions/dev/stop", "/browsers/logout"])
def test_address_alone_changes_nothing(browser: PortalBrowser, path: str) -> None:
    browser.get(path)
    assert not browser.controller.sent("POST")
    assert not browser.controller.sent("DELETE")


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data; boundary=x", ""])
def test_form_of_another_type_is_refused(browser: PortalBrowser, kind: str) -> None:
    headers = {"Origin": PORTAL, "Content-Type": kind}
    assert browser.post("/start", {"name": "x"}, headers).status_code == 422
    assert not browser.controller.sent("POST")


@pytest.mark.parametrize(
    "fields",
    [{"name": "x" * MAX_FORM_BYTES}, {f"x{number}": "" for number in range(65)}],
    ids=["long", "many"],
)
def test_large_form_is_refused(browser: PortalBrowser, fields: dict[str, str]) -> None:
    assert browser.post("/start", fields).status_code == 422
    assert not browser.controller.calls


def test_form_that_is_not_utf8_is_refused(browser: PortalBrowser) -> None:
    headers = {"Origin": PORTAL, "Content-Type": "application/x-www-form-urlencoded"}
    assert browser.request("POST", "/start", headers=headers, content="name=%ff").status_code == 422


@pytest.mark.parametrize("path", ["/", "/sessions/dev", "/events", "/open"])
def test_two_cookies_of_portal_are_refused(browser: PortalBrowser, path: str) -> None:
    browser.cookie = f"{browser.cookie}; a=b; {browser.cookie}"
    answer = browser.get(path)
    assert answer.status_code == 422
    assert not browser.controller.calls


@pytest.mark.parametrize("path", FOREIGN_PATHS)
def test_login_leads_nowhere_else(browser: PortalBrowser, path: str) -> None:
    assert not is_local_path(path)
    assert browser.post("/login", {"proof": "ABCDE-FGHJK", "next": path}).headers["location"] == "/"


@pytest.mark.parametrize("path", LOCAL_PATHS)
def test_login_leads_to_page_of_portal(browser: PortalBrowser, path: str) -> None:
    assert browser.post("/login", {"proof": "ABCDE-FGHJK", "next": path}).headers["location"] == path


@pytest.mark.parametrize("path", FOREIGN_PATHS)
def test_service_is_opened_at_its_own_paths_only(browser: PortalBrowser, path: str) -> None:
    answer = _open(browser, "jupyter--dev--alice.apps.example.org", path)
    assert answer == (422, "")


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_only_hosts_of_services_are_opened(browser: PortalBrowser, host: str) -> None:
    assert _open(browser, host, "/") == (422, "")


def _open(browser: PortalBrowser, host: str, path: str) -> tuple[int, str]:
    answer = browser.get("/open?" + urlencode({"host": host, "path": path, "entry": ENTRY}))
    assert not browser.controller.sent("POST")
    return answer.status_code, answer.headers.get("location", "")
