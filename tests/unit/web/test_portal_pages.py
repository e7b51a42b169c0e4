"""The pages of the portal: their content, what they escape, and what they show of errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from broker.errors import ControllerUnavailableError, NotFoundError, SlurmUnavailableError
from broker.schema.grants import Role
from broker.schema.sessions import SessionState
from tests.fakes.tui_feed import make_connection

if TYPE_CHECKING:
    from tests.fakes.portal_browser import PortalBrowser

PAGES = {
    "/": "berth list",
    "/sessions/dev": "berth show dev",
    "/sessions/dev/snapshots": "berth snapshots dev",
    "/sessions/dev/history": "berth history dev",
    "/sessions/dev/log": "berth logs dev",
    "/sessions/dev/stop": "berth stop dev",
    "/sessions/dev/start": "berth start dev",
    "/sessions/dev/extend": "berth extend dev",
    "/sessions/dev/snapshot": "berth snapshot dev",
    "/sessions/dev/rollback?snapshot=1": "berth rollback dev 1",
    "/sessions/dev/clone": "berth clone dev",
    "/sessions/dev/switch?profile=triton-xpu": "berth switch dev triton-xpu",
    "/start": "berth start NAME --profile PROFILE",
    "/start?name=x&profile=base&gpus=1": "berth start x --profile base --gres=gpu:1",
    "/cluster": "berth cluster",
    "/keys": "berth key list",
    "/browsers": "berth browsers",
}
"""Each page of a logged-in user, and the equivalent command."""
MARKUP = "<script>alert(1)</script>\"'&\u202e"
"""Text that would be markup, and a character that turns the direction of writing."""


@pytest.mark.parametrize(("path", "command"), PAGES.items())
def test_page_shows_equivalent_command_and_user(browser: PortalBrowser, path: str, command: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 200
    assert f"<code>{command}</code>" in answer.text
    assert "<span>alice</span>" in answer.text


@pytest.mark.parametrize("path", [*PAGES, "/login", "/nothing", "/static/portal.css"])
def test_every_response_has_protecting_headers(browser: PortalBrowser, path: str) -> None:
    headers = browser.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")


@pytest.mark.parametrize("path", [*PAGES, "/login"])
def test_page_has_no_inline_script_style_or_other_origin(browser: PortalBrowser, path: str) -> None:
    text = browser.get(path).text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert re.findall(r"<script(?! src=\"/static/)", text) == []
    assert all(source.startswith("/static/") for source in re.findall(r"src=\"([^\"]*)", text))


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("cookie", ["", "__Host-Http-berth-portal=", "__Host-Http-berth-portal=ended-12345"])
def test_page_without_valid_login_leads_to_login(browser: PortalBrowser, path: str, cookie: str) -> None:
    browser.cookie = cookie
    answer = browser.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert not [body for _, body in browser.controller.sent("POST")]


def test_shared_services_have_a_button_each_and_nothing_else_of_their_session(browser: PortalBrowser) -> None:
    assert "Shared with me" not in browser.get("/").text
    host = "board--dev--carol.apps.example.org"
    service = {"session": "carol.dev", "service": "board", "host": host, "is_open": True, "via": "@devs"}
    browser.controller.shared = [service, service | {"service": "notes", "is_open": False}]
    text = browser.get("/").text.partition("Shared with me")[2]
    assert re.findall(r'href="([^"]*)"', text) == [f"https://{host}/"]
    assert "<code>berth open carol.dev board</code>" in text
    assert "notes of carol.dev" in text
    assert "while the session is ready" in text
    browser.controller.failures["GET", "/v1/shared/services"] = ControllerUnavailableError("no answer")
    assert browser.get("/").status_code == 200


def test_owner_sees_guests_of_the_session(browser: PortalBrowser) -> None:
    guest = {"user": "bob", "service": "board", "began_at": 1.79e9, "expires_at": 4e9}
    browser.controller.guests = [guest, guest]
    own = make_connection().model_copy(update={"user": "alice"})
    pairs = own.model_copy(update={"user": "carol", "role": Role.PAIR})
    found = {"connections": [each.model_dump() for each in (own, pairs, pairs)], "guests": [guest, guest]}
    browser.controller.answers[("GET", "/v1/sessions/dev/connections")] = found
    text = browser.get("/sessions/dev").text
    assert text.count("bob (port) has board open in a browser, since ") == 1
    assert text.count("carol (pair) is in by ssh, since ") == 1
    assert "alice (" not in text
    assert "1 guest" in browser.get("/sessions/dev/stop").text


def test_login_remembers_page_with_its_query(browser: PortalBrowser) -> None:
    browser.cookie = ""
    assert browser.get("/start?name=x&gpus=1").headers["location"] == "/login?next=/start%3Fname%3Dx%26gpus%3D1"


def test_text_of_users_and_slurm_is_escaped(browser: PortalBrowser) -> None:
    controller = browser.controller
    controller.add("dev", SessionState.FAILED, reason=MARKUP, options=[f"--comment={MARKUP}"], node_reason=MARKUP)
    controller.answers |= {
        ("GET", "/v1/sessions/dev/log?bytes=65536"): {"text": MARKUP},
        ("GET", "/v1/sessions/dev/events"): {
            "events": [{"at": 1.0, "actor": "alice", "session": "dev", "action": "fail", "detail": MARKUP}]
        },
        ("GET", "/v1/sessions/dev/services"): {"services": [{"name": "x", "title": MARKUP, "description": MARKUP}]},
        ("GET", "/v1/keys"): {
            "keys": [{"fingerprint": "f", "algorithm": "a", "comment": MARKUP, "source": "authorized_keys"}]
        },
        ("GET", "/v1/profiles"): {
            "profiles": [
                {"name": "base", "version": "1", "owner": "own", "description": MARKUP, "newest": True},
            ]
        },
        ("GET", "/v1/sessions/dev/snapshots"): {
            "snapshots": [
                {"number": 1, "reason": MARKUP, "at": 1.0, "consistency": "stopped", "profile": "base", "version": "1"}
            ]
        },
    }
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;"
    shown = 0
    for path in PAGES:
        text = browser.get(path).text
        assert "alert(1)</script>" not in text
        assert "\u202e" not in text
        shown += escaped in text
    assert shown >= 8


def test_address_of_request_is_escaped(browser: PortalBrowser) -> None:
    for path in (f"/sessions/{MARKUP}", f"/login?next={MARKUP}&out={MARKUP}", f"/sessions/dev?done={MARKUP}"):
        assert "<script>alert" not in browser.get(path).text
    fields = {"name": MARKUP, "profile": MARKUP, "options": MARKUP}
    text = browser.post("/start", fields).text
    assert "<script>alert" not in text
    assert 'value="&lt;script&gt;' in text


def test_sessions_are_listed_with_state_in_words(browser: PortalBrowser) -> None:
    browser.controller.add(
        "trial", SessionState.QUEUED, id="01" + "b" * 24, reason="Resources", ahead=3, options=["--gres=gpu:intel:1"]
    )
    text = browser.get("/").text
    assert '<span class="state good">ready</span>' in text
    assert "Queued: Resources (waiting for free resources); 3 jobs ahead" in text
    assert "<dd>gpu:intel:1</dd>" in text
    assert 'href="/sessions/trial"' in text


def test_session_page_links_services_ssh_and_ides(browser: PortalBrowser) -> None:
    text = browser.get("/sessions/dev").text
    assert 'href="https://jupyter--dev--alice.apps.example.org/"' in text
    assert "<code>ssh dev.berth</code>" in text
    assert 'href="vscode://vscode-remote/ssh-remote+dev.berth/home/alice"' in text
    assert "<code>berth open dev zed</code>" in text


def test_stopped_session_offers_start_and_no_service(browser: PortalBrowser) -> None:
    browser.controller.add("dev", SessionState.STOPPED)
    text = browser.get("/sessions/dev").text
    assert 'href="/sessions/dev/start"' in text
    assert 'href="/sessions/dev/stop"' not in text
    assert "can be opened while the session is ready" in text
    assert "jupyter--dev" not in text


def test_failed_session_shows_end_of_its_log(browser: PortalBrowser) -> None:
    browser.controller.add("dev", SessionState.FAILED, outcome="FAILED")
    log = "12:00:00 berth: job 7 begins\n12:00:01 berth: error: no image\n"
    browser.controller.answers[("GET", "/v1/sessions/dev/log?bytes=65536")] = {"text": log}
    text = browser.get("/sessions/dev").text
    assert "See the end of its log below" in text
    assert ">12:00:01 berth: error: no image</pre>" in text


def test_session_page_survives_missing_services(browser: PortalBrowser) -> None:
    browser.controller.failures[("GET", "/v1/sessions/dev/services")] = NotFoundError("no image", hint="build one")
    text = browser.get("/sessions/dev").text
    assert "no image" in text
    assert "ssh dev.berth" in text


@pytest.mark.parametrize("path", ["/sessions/nobody", "/sessions/..%2f..", "/sessions/Dev", "/sessions/dev/explode"])
def test_unknown_session_or_page_is_not_found(browser: PortalBrowser, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 404
    assert "This did not work" in answer.text


def test_error_of_controller_is_shown_with_hint(browser: PortalBrowser) -> None:
    failure = ControllerUnavailableError("the controller does not answer", hint="run `berth doctor`")
    browser.controller.failures[("GET", "/v1/sessions")] = failure
    answer = browser.get("/")
    assert answer.status_code == 502
    assert "the controller does not answer" in answer.text
    assert "run <code>berth doctor</code>" in answer.text


def test_failure_of_portal_is_a_page_without_traceback(browser: PortalBrowser) -> None:
    browser.controller.answers[("GET", "/v1/sessions")] = {"sessions": "wrong"}
    answer = browser.get("/")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert "the log of berth-web has the cause" in answer.text
    assert "content-security-policy" in answer.headers


def test_start_page_shows_profiles_and_free_resources(browser: PortalBrowser) -> None:
    text = browser.get("/start").text
    assert '<option value="triton-xpu">triton-xpu: triton-xpu@4: Triton for Intel GPUs</option>' in text
    assert "Free now: 1 or 4 shards." in text


def test_start_page_without_slurm_and_profiles_takes_any_profile(browser: PortalBrowser) -> None:
    browser.controller.failures |= {
        ("GET", "/v1/cluster"): SlurmUnavailableError("Slurm does not answer"),
        ("GET", "/v1/profiles"): NotFoundError("there is no store"),
    }
    text = browser.get("/start").text
    assert '<input type="text" id="field-profile"' in text
    assert "Free now" not in text


def test_history_is_a_timeline_with_events(browser: PortalBrowser) -> None:
    text = browser.get("/sessions/dev/history").text
    assert "<strong>Job 3</strong> on c2: waited 10 min, ran 2 h 3 min" in text
    assert "<strong>start</strong> by alice" in text
    assert text.count('<rect class="ran"') == 2
