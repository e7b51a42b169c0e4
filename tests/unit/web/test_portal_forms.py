"""The forms of the portal: the requests that they make, faults shown in place, and refusals of the controller."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.api.route_access import DELEGATED_OPTIONS
from broker.errors import ConflictError, NotFoundError, RefusedError
from broker.forms.start_form import new_session_form, start_request
from broker.schema.connections import ConnectionView
from broker.schema.sessions import SessionState, StartRequest

if TYPE_CHECKING:
    from tests.fakes.portal_browser import PortalBrowser


@dataclass
class FormCase:
    """A form: fields that are valid with their request, and fields that are not with the fault that is shown."""

    path: str
    fields: dict[str, str]
    call: str
    body: dict[str, Any]
    leads_to: str
    invalid: dict[str, str] = field(default_factory=dict)
    fault: str = ""
    state: SessionState = SessionState.READY


CASES = {
    "new": FormCase(
        "/start",
        {"name": "trial", "profile": "triton-xpu@4", "gpus": "1", "time": "2h"},
        "/v1/sessions/trial/start",
        {
            "profile": "triton-xpu",
            "version": "4",
            "options": ["--gres=gpu:1", "--time=2:00:00"],
        },
        "/sessions/trial?done=start",
        {"name": "Dev Box", "profile": "nothing", "gpus": "many", "memory": "16X", "time": "soon"},
        "is neither a number of GPUs nor",
    ),
    "start": FormCase(
        "/sessions/dev/start",
        {"memory": "16G"},
        "/v1/sessions/dev/start",
        {"options": ["--mem=16G"]},
        "/sessions/dev?done=start",
        {"cpus": "-1", "memory": "16X"},
        "is not a number of CPUs",
        SessionState.STOPPED,
    ),
    "stop": FormCase("/sessions/dev/stop", {}, "/v1/sessions/dev/stop", {}, "/sessions/dev?done=stop"),
    "extend": FormCase(
        "/sessions/dev/extend",
        {"time": "90"},
        "/v1/sessions/dev/extend",
        {"seconds": 5400.0},
        "/sessions/dev?done=extend",
        {"time": ""},
        "is required",
    ),
    "snapshot": FormCase(
        "/sessions/dev/snapshot",
        {"label": "before-upgrade"},
        "/v1/sessions/dev/snapshots",
        {"label": "before-upgrade"},
        "/sessions/dev?done=snapshot",
        {"label": "7"},
        "cannot be a label",
    ),
    "rollback": FormCase(
        "/sessions/dev/rollback",
        {"snapshot": "clean", "confirmed": "yes"},
        "/v1/sessions/dev/rollback",
        {"snapshot": "clean"},
        "/sessions/dev?done=rollback",
        {"snapshot": "no snapshot", "confirmed": "yes"},
        "is neither a snapshot",
    ),
    "clone": FormCase(
        "/sessions/dev/clone",
        {"new": "copy", "snapshot": "1", "profile": "base@1", "start": "yes"},
        "/v1/sessions/dev/clone",
        {"name": "copy", "at": "1", "profile": "base", "version": "1", "start": True},
        "/sessions/copy?done=clone",
        {"new": "Copy"},
        "cannot be a name",
    ),
    "switch": FormCase(
        "/sessions/dev/switch",
        {"profile": "triton-xpu", "fresh": "yes", "confirmed": "yes"},
        "/v1/sessions/dev/switch",
        {"profile": "triton-xpu", "fresh": True},
        "/sessions/dev?done=switch",
        {"profile": "windows", "confirmed": "yes"},
        "there is no profile windows",
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, browser: PortalBrowser) -> FormCase:
    found = CASES[request.param]
    browser.controller.add("dev", found.state)
    return found


def test_valid_form_makes_request_and_leads_to_result(browser: PortalBrowser, case: FormCase) -> None:
    answer = browser.post(case.path, case.fields)
    assert (answer.status_code, answer.headers["location"]) == (303, case.leads_to)
    assert browser.controller.sent("POST") == [(case.call, case.body)]
    assert "the request was accepted" in browser.get(f"/sessions/dev?done={case.leads_to.partition('=')[2]}").text


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.fault])
def test_invalid_form_is_shown_with_fault_and_its_texts(browser: PortalBrowser, name: str) -> None:
    case = CASES[name]
    browser.controller.add("dev", case.state)
    answer = browser.post(case.path, case.invalid)
    assert answer.status_code == 422
    assert not browser.controller.sent("POST")
    assert case.fault in answer.text
    assert 'role="alert"' in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert "<title>Error: " in answer.text
    _assert_kept(case.invalid, answer.text)


def test_refusal_of_controller_is_shown_and_fields_are_kept(browser: PortalBrowser, case: FormCase) -> None:
    browser.controller.failures[("POST", case.call)] = ConflictError("dev is busy", hint="wait for `berth show dev`")
    answer = browser.post(case.path, case.fields)
    assert answer.status_code == 409
    assert "dev is busy" in answer.text
    assert "wait for <code>berth show dev</code>" in answer.text
    _assert_kept(case.fields, answer.text)


def _assert_kept(fields: dict[str, str], page: str) -> None:
    """The page's form has the texts; a list of choices has other texts as choices of their own."""
    for name, text in fields.items():
        if text and name != "confirmed":
            assert f'value="{text}"' in page or f"<option selected>{text}</option>" in page


def test_form_with_ended_login_leads_to_login(browser: PortalBrowser, case: FormCase) -> None:
    browser.controller.delegations.clear()
    answer = browser.post(case.path, case.fields)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_switch_is_previewed_before_it_is_confirmed(browser: PortalBrowser) -> None:
    answer = browser.post("/sessions/dev/switch", {"profile": "triton-xpu", "fresh": "yes"})
    assert browser.controller.sent("POST") == [
        ("/v1/sessions/dev/check", {"switch": {"profile": "triton-xpu", "fresh": True}})
    ]
    assert answer.status_code == 200
    assert "its programs end, and it is started again" in answer.text
    assert "<td>base@1</td><td>triton-xpu@4 (Triton for Intel GPUs)</td>" in answer.text
    assert '<input type="hidden" name="fresh" value="yes">' in answer.text
    assert '<input type="hidden" name="confirmed" value="yes">' in answer.text
    assert "<code>berth switch dev triton-xpu --fresh</code>" in answer.text


def test_rollback_is_checked_before_it_is_confirmed(browser: PortalBrowser) -> None:
    answer = browser.post("/sessions/dev/rollback", {"snapshot": "1"})
    assert browser.controller.sent("POST") == [("/v1/sessions/dev/check", {"rollback": {"snapshot": "1"}})]
    assert "rolls back to snapshot 1; its present state becomes a snapshot" in answer.text


def test_refused_check_is_shown_with_form(browser: PortalBrowser) -> None:
    browser.controller.failures[("POST", "/v1/sessions/dev/check")] = NotFoundError("there is no snapshot 9")
    answer = browser.post("/sessions/dev/rollback", {"snapshot": "9"})
    assert answer.status_code == 404
    assert "there is no snapshot 9" in answer.text
    assert 'value="9"' in answer.text


def test_link_to_rollback_names_its_snapshot(browser: PortalBrowser) -> None:
    assert 'href="/sessions/dev/rollback?snapshot=2"' in browser.get("/sessions/dev/snapshots").text
    text = browser.get("/sessions/dev/rollback?snapshot=2").text
    assert 'name="snapshot" value="2"' in text
    assert "There are 1 (clean), 2." in text


def test_stop_says_who_uses_the_session(browser: PortalBrowser) -> None:
    connection = ConnectionView(
        id="x", session="dev", user="alice", fingerprint="", peer="", gateway="", generation="2.0",
        began_at=1.0, seen_at=1.0, ended_at=None, sent=0, received=0, end="",
    )  # fmt: skip
    connections = {"connections": [connection.model_dump(), connection.model_dump()]}
    browser.controller.answers[("GET", "/v1/sessions/dev/connections")] = connections
    assert "dev is in use: 2 connections." in browser.get("/sessions/dev/stop").text


def test_impossible_action_says_why(browser: PortalBrowser) -> None:
    browser.controller.add("dev", SessionState.STOPPED)
    assert "Not possible now: dev: it is already stopped." in browser.get("/sessions/dev/stop").text


def test_taken_name_is_refused_in_place(browser: PortalBrowser) -> None:
    answer = browser.post("/start", {"name": "dev", "profile": "base"})
    assert "you already have a session dev" in answer.text


def test_browser_is_logged_out(browser: PortalBrowser) -> None:
    answer = browser.post("/browsers/" + "0" * 26 + "/logout")
    assert answer.headers["location"] == "/browsers?out=yes"
    assert browser.controller.sent("DELETE") == [("/v1/web/browsers/" + "0" * 26, {})]
    assert "The browser is logged out." in browser.get("/browsers?out=yes").text


def test_all_browsers_are_logged_out(browser: PortalBrowser) -> None:
    browser.controller.closed = False
    answer = browser.post("/browsers/logout")
    assert answer.headers["location"] == "/browsers?out=later"
    assert browser.controller.sent("DELETE") == [("/v1/web/browsers", {})]
    assert "closed within a minute" in browser.get("/browsers?out=later").text


@pytest.mark.parametrize("browser_id", ["x", "%2e%2e%2f", "0" * 25 + "%2f"])
def test_unknown_browser_is_not_found(browser: PortalBrowser, browser_id: str) -> None:
    assert browser.post(f"/browsers/{browser_id}/logout").status_code in {404, 405}
    assert not browser.controller.sent("DELETE")


def test_refused_logout_of_browser_is_an_error_page(browser: PortalBrowser) -> None:
    failure = RefusedError("only its user may end a login")
    browser.controller.failures[("DELETE", "/v1/web/browsers/" + "0" * 26)] = failure
    answer = browser.post("/browsers/" + "0" * 26 + "/logout")
    assert answer.status_code == 403
    assert "only its user may end a login" in answer.text


def test_start_form_sets_the_options_that_a_browser_may_set() -> None:
    form = new_session_form(for_browser=True)
    texts = {"name": "dev", "profile": "base", "gpus": "1", "cpus": "2", "memory": "4G", "time": "1h"}
    for each in form.fields:
        form.set(each.id, texts.get(each.id, "x"))
    request = start_request(form, {})
    assert {word.partition("=")[0].removeprefix("--") for word in request.options} == DELEGATED_OPTIONS
    assert request.model_dump(exclude={"profile", "options"}) == StartRequest().model_dump(
        exclude={"profile", "options"}
    )
