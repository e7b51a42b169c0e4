"""Escape sequences in every text that the controller may answer with: no screen of the interface sends one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from pydantic import BaseModel, ValidationError

from broker.errors import RefusedError
from broker.forms.start_form import ProfileChoice
from broker.schema.checks import CheckReport, StartEstimate, SwitchPreview
from broker.schema.sessions import JobView, OperationView, Persistence, SessionView
from broker.schema.site import EventView
from broker.schema.volumes import SizeLine, SizeReport, SnapshotView
from tests.fakes.cluster import cluster_view, node_view, partition_view
from tests.fakes.tui_actions import act, snapshot
from tests.fakes.tui_feed import NOW, make_connection, make_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fakes.controller import ScriptedController
    from tests.fakes.tui_app import TuiTest

EVIL = "\x1b[2J\x1b]0;x\x07\u202e\x9b31mevil\r\n\x00\x7f[bold]x[/bold][link"
"""Erases the screen, sets the title, reverses the text, colours it, and has marks of Rich."""
NAMES = {"id", "name", "session", "verb"}
"""Fields that are checked where they come in, and that find the answer again."""

_Model = TypeVar("_Model", bound=BaseModel)


def hostile(model: _Model) -> _Model:
    """Return the model with EVIL in every text that takes it."""
    fields = {name: _spoilt(getattr(model, name)) for name in type(model).model_fields if name not in NAMES}
    for name, value in fields.items():
        try:
            model = type(model).model_validate({**_values(model), name: value})
        except ValidationError:  # a field of a few words, such as a state
            continue
    return model


def _values(model: BaseModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}


def _spoilt(value: object) -> object:
    if type(value) is str:
        return EVIL
    if isinstance(value, BaseModel):
        return hostile(value)
    if isinstance(value, list):
        return [_spoilt(each) for each in value] or [EVIL]
    return value


FAILED = OperationView(id="01r", verb="rollback", status="failed", asked_at=NOW, reversed=True, message="x", hint="y")
SESSIONS: list[SessionView] = [
    hostile(make_view("dev", operation=FAILED, clients=["192.0.2.7"], node_condition="draining", node_reason="x")),
    hostile(make_view("old", "failed", reason="x", outcome="OUT_OF_MEMORY", volumes=None)),
    hostile(make_view("wait", "queued", reason="x")),
]
JOB = JobView(submission=1, job_id=4711, node="gpu01", asked_at=NOW - 100, started_at=NOW - 50, ended_at=NOW)
PREVIEW = SwitchPreview(profile="base", version="2", description="x", options=["x"], persistence=Persistence())
CHECK = CheckReport(
    session=SESSIONS[0], ends_job=True, switch=hostile(PREVIEW), estimate=StartEstimate(at=NOW, waiting=1)
)


def prepare(controller: ScriptedController) -> None:
    """Let every answer of the controller be hostile."""
    controller.snapshots["dev"] = [hostile(snapshot(1)), hostile(snapshot(2, "a b"))]
    controller.jobs["dev"] = [hostile(JOB)]
    controller.events = [hostile(EventView(at=NOW, actor="alice", session="dev", action="start", detail="x"))]
    controller.connections = [hostile(make_connection())]
    controller.logs["dev"] = deque([f"one\n{EVIL}\n"])
    controller.deleted = {"gone": hostile(make_view("gone", "deleted"))}
    nodes, partitions = [hostile(node_view("c1"))], [hostile(partition_view("gpu"))]
    controller.answers |= {
        "GET /v1/cluster": hostile(cluster_view(nodes=nodes, partitions=partitions)),
        "POST /v1/sessions/dev/check": CHECK,
        "GET /v1/sessions/dev/size": SizeReport(lines=[SizeLine(what=EVIL, own=1, total=2)], bytes=3, free=4),
    }


SCREENS: dict[str, tuple[list[str], str]] = {
    "list": ([], "evil"),
    "groups": (["z", "z"], "evil"),
    "details": (["enter"], "evil"),
    "palette": (["colon"], "actions"),
    "explain": (["w"], "evil"),
    "history": (["H"], "evil"),
    "events": (["v"], "evil"),
    "connections": (["W"], "evil"),
    "log": (["l"], "evil"),
    "links": (["i"], "vscode"),
    "cluster": (["F"], "evil"),
    "snapshots": (["t"], "evil"),
    "sizes": (["t", "u"], "evil"),
    "output": (["u"], "evil"),
    "start": (["n", "tab", *"torch"], "evil"),
    "resize": (["Z"], "Resize"),
    "restore": (["U"], "gone"),
    "switch": (["P", *"base", "enter"], "evil"),
    "rollback": (["b", "1", "enter"], "Roll dev back"),
    "stop": (["x"], "Stop dev?"),
}
"""Names of screens, the keys that lead to them, and a text at which each is complete; `evil` is of a hostile field."""


@pytest.mark.parametrize("screen", SCREENS)
def test_no_screen_sends_what_a_hostile_text_has(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, screen: str
) -> None:
    profiles = [ProfileChoice("torch", "2.9", "site", EVIL, newest=True), ProfileChoice("base", "2", "site", EVIL)]
    monkeypatch.setattr("tui.screens.action_forms.read_profiles", lambda: profiles)
    prepare(controller)
    keys, complete = SCREENS[screen]
    if screen != "switch":
        controller.answers["POST /v1/sessions/dev/check"] = CHECK.model_copy(update={"switch": None})

    async def scenario(test: TuiTest) -> None:
        await test.press(*keys)
        await test.until_shown(complete)
        assert_harmless(test)

    act(controller, scenario, *SESSIONS, size=(220, 50))


def assert_harmless(test: TuiTest) -> None:
    """Every cell of the screen has a printable character, and no style comes from the texts."""
    assert [line for line in test.text().splitlines() if not line.isprintable()] == []
    assert "\\x7fx" not in test.text(), "marks were taken for a style"


MESSAGES: dict[str, Callable[[TuiTest], Any]] = {
    "S": lambda test: test.press("S", "enter"),
    "R": lambda test: test.press("R"),
    "w": lambda test: test.press("w"),
    "t": lambda test: test.press("t"),
}
"""Keys of actions whose request is refused."""


@pytest.mark.parametrize("key", MESSAGES)
def test_hostile_message_of_a_refusal_is_harmless(controller: ScriptedController, key: str) -> None:
    refused = RefusedError(EVIL, hint=EVIL)
    for call in ("POST /v1/sessions/dev/snapshots", "POST /v1/sessions/dev/check", "GET /v1/sessions/dev/snapshots"):
        controller.failures[call] = refused
    controller.failures["GET /v1/sessions/dev"] = refused

    async def scenario(test: TuiTest) -> None:
        await MESSAGES[key](test)
        await test.until(lambda: "evil" in test.text() + test.notices())
        assert test.notices().replace("\n", "").isprintable()
        assert_harmless(test)

    act(controller, scenario, make_view("dev"), size=(220, 50))


def test_hostile_is_what_it_says() -> None:
    view = hostile(make_view("dev"))
    assert {view.reason, view.profile, view.options[0], view.digest} == {EVIL}
    assert (view.name, view.state) == ("dev", "ready")
    assert view.endpoint is not None
    assert view.endpoint.node == EVIL
    assert isinstance(hostile(snapshot(1)), SnapshotView)
