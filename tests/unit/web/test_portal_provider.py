"""Logging in at the OpenID provider from the portal, and the provider's logouts."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from broker.errors import ControllerUnavailableError, ProviderUnavailableError, RefusedError
from broker.web.portal.provider_routes import COOKIE
from tests.fakes.portal_controller import PROVIDER_SECRET, PROVIDER_URL, SECRET

if TYPE_CHECKING:
    from tests.fakes.portal_browser import PortalBrowser

CALLBACK = "/login/oidc/callback"
ANSWER = f"{CALLBACK}?code=the-code&state=the-state&iss=https%3A%2F%2Flogin.example.org"
LOGINS, DELEGATIONS, LOGOUT = (f"/v1/web/provider/{name}" for name in ("logins", "delegations", "logout"))
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def stranger(browser: PortalBrowser) -> PortalBrowser:
    browser.cookie = ""
    return browser


def test_login_page_has_a_way_to_the_provider(stranger: PortalBrowser) -> None:
    text = stranger.get("/login?next=/open%3Fhost=x%26path=/").text
    assert ">Log in with Example &amp; Co</a>" in text
    assert 'href="/login/oidc?next=/open%3Fhost%3Dx%26path%3D/"' in text
    assert '<label for="proof">Code</label>' in text


def test_site_without_a_provider_has_no_button(stranger: PortalBrowser) -> None:
    stranger.without_provider()
    assert "/login/oidc" not in stranger.get("/login").text


def test_browser_is_led_to_the_provider_and_bound(stranger: PortalBrowser) -> None:
    answer = stranger.get("/login/oidc?next=/start%3Fname=a", {"X-Berth-Address": "192.0.2.7"})
    assert (answer.status_code, answer.headers["location"]) == (303, PROVIDER_URL)
    assert stranger.controller.sent("POST") == [(LOGINS, {"address": "192.0.2.7"})]
    name, _, rest = answer.headers["set-cookie"].partition("=")
    value, *attributes = rest.split("; ")
    assert (name, value) == (COOKIE, f"{PROVIDER_SECRET}.{quote('/start?name=a', safe='')}")
    assert {"HttpOnly", "Secure", "Path=/", "SameSite=lax"} <= set(attributes)
    assert not any(each.startswith("Domain") for each in attributes)
    assert "Referrer-Policy" in answer.headers


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/" + "x" * 2000, "/a\\b"])
def test_only_a_short_path_of_the_portal_is_kept(stranger: PortalBrowser, wanted: str) -> None:
    answer = stranger.get(f"/login/oidc?next={quote(wanted, safe='')}")
    assert f"{COOKIE}={PROVIDER_SECRET}.%2F;" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Purpose": "prefetch"}]
)
def test_other_pages_begin_no_login(stranger: PortalBrowser, headers: dict[str, str]) -> None:
    answer = stranger.get("/login/oidc", headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert not stranger.controller.calls


def test_provider_that_is_away_leaves_the_other_way(stranger: PortalBrowser) -> None:
    failure = ProviderUnavailableError("the provider does not answer", hint="try again")
    stranger.controller.failures["POST", LOGINS] = failure
    answer = stranger.get("/login/oidc?next=/start")
    assert answer.status_code == 502
    assert "the provider does not answer" in answer.text
    assert "ry again" in answer.text
    assert 'name="next" value="/start"' in answer.text
    assert "aria-invalid" not in answer.text


def test_answer_is_carried_and_logs_the_browser_in(stranger: PortalBrowser) -> None:
    stranger.cookie = f"{COOKIE}={PROVIDER_SECRET}.%2Fstart%3Fname%3Da"
    answer = stranger.get(
        ANSWER, {"User-Agent": "Firefox", "X-Berth-Address": "192.0.2.7", "Sec-Fetch-Site": "cross-site"}
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/start?name=a")
    sent = {
        "secret": PROVIDER_SECRET,
        "state": "the-state",
        "code": "the-code",
        "issuer": "https://login.example.org",
        "browser": "Firefox",
        "address": "192.0.2.7",
    }
    assert stranger.controller.sent("POST") == [(DELEGATIONS, sent)]
    removed, login = answer.headers.get_list("set-cookie")
    assert removed.startswith(f'{COOKIE}=""; ')
    assert "Max-Age=0" in removed
    assert login.startswith(f"__Host-Http-berth-portal={SECRET}; ")


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        f"{COOKIE}=",
        f"{COOKIE}=short.%2F",
        f"{COOKIE}={PROVIDER_SECRET}",
        f"{COOKIE}-x={PROVIDER_SECRET}.%2F",
        f"\x0b{COOKIE}={PROVIDER_SECRET}.%2F",
    ],
)
def test_answer_in_a_browser_that_began_no_login_goes_nowhere(stranger: PortalBrowser, cookie: str) -> None:
    stranger.cookie = cookie
    answer = stranger.get(ANSWER)
    assert answer.status_code == 403
    assert "this browser has begun no login" in answer.text
    assert not stranger.controller.calls
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "query",
    ["state=a&state=b&code=x", "state=a&code=x&code=y", "state=a&code=x&iss=a&iss=b", f"state=a&code={'x' * 3000}"],
)
def test_ambiguous_answer_is_refused(stranger: PortalBrowser, query: str) -> None:
    stranger.cookie = f"{COOKIE}={PROVIDER_SECRET}.%2F"
    assert stranger.get(f"{CALLBACK}?{query}").status_code == 422
    assert not stranger.controller.calls


def test_cookie_leads_to_no_other_origin(stranger: PortalBrowser) -> None:
    stranger.cookie = f"{COOKIE}={PROVIDER_SECRET}.%2F%2Fevil.example"
    assert stranger.get(ANSWER).headers["location"] == "/"


def test_refusal_is_shown_with_its_remedy(stranger: PortalBrowser) -> None:
    stranger.cookie = f"{COOKIE}={PROVIDER_SECRET}.%2Fstart"
    failure = RefusedError("there is no account <b> on this machine", hint="ask the site's operators")
    stranger.controller.failures["POST", DELEGATIONS] = failure
    answer = stranger.get(ANSWER)
    assert answer.status_code == 403
    assert "there is no account &lt;b&gt; on this machine" in answer.text
    assert "ask the site&#39;s operators" in answer.text.lower()
    assert 'href="/login/oidc?next=/start"' in answer.text
    assert "the-code" not in answer.text
    assert "set-cookie" not in answer.headers


def test_logout_token_is_carried(browser: PortalBrowser) -> None:
    """The provider is no browser: it sends no Origin."""
    answer = browser.post("/login/oidc/logout", {"logout_token": "a.b-_.c"}, {})
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert browser.controller.sent("POST") == [(LOGOUT, {"logout_token": "a.b-_.c"})]
    assert "set-cookie" not in answer.headers


def test_logout_is_acknowledged_only_if_all_is_closed(browser: PortalBrowser) -> None:
    browser.controller.closed = False
    answer = browser.post("/login/oidc/logout", {"logout_token": "a.b.c"}, {})
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("failure", "status"),
    [(RefusedError("this logout token was used already"), 400), (ControllerUnavailableError("away"), 502)],
)
def test_refused_logout_says_so(browser: PortalBrowser, failure: RefusedError, status: int) -> None:
    browser.controller.failures["POST", LOGOUT] = failure
    answer = browser.post("/login/oidc/logout", {"logout_token": "a.b.c"}, {})
    assert (answer.status_code, answer.json()["error_description"]) == (status, failure.message)


@pytest.mark.parametrize("fields", [{}, {"logout_token": ""}, {"logout_token": "a b"}, {"logout_token": "x" * 40_000}])
def test_request_without_a_token_is_refused(browser: PortalBrowser, fields: dict[str, str]) -> None:
    assert browser.post("/login/oidc/logout", fields, {}).status_code == 400
    assert not browser.controller.calls


@pytest.mark.parametrize("path", ["/login/oidc/logout/", "/login/oidc/../logout", "/logout", "/login/oidc"])
def test_no_other_path_takes_forms_of_strangers(browser: PortalBrowser, path: str) -> None:
    answer = browser.request("POST", path, headers=FORM, content="logout_token=a.b.c")
    assert answer.status_code in {403, 404, 405}
    assert not browser.controller.calls
