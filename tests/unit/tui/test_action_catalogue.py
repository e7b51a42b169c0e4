"""The catalogue of the TUI's actions: complete, with free keys, and equal to the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click
import pytest

from broker.cli.app import berth
from broker.cli.command_table import COMMANDS
from broker.cli.context import Invocation
from broker.client.client import Client
from broker.client.records import JsonRecord
from broker.forms.action_forms import restore_form
from broker.forms.form import InvalidFormError
from broker.schema.checks import CheckReport
from broker.schema.operations import OPERATIONS
from broker.schema.sessions import SessionState
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import CREATED, ScriptedController, operation, ready, view
from tui.catalogue import Catalogue
from tui.core.actions import ACTIONS, OTHER_COMMANDS, find_action
from tui.core.session_action import Danger, RunMode, needs_confirmation, refusal
from tui.workers.calls import FORM_CALLS, PLAIN_CALLS, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.forms.form import Form
    from broker.schema.sessions import SessionView
    from tui.core.session_action import SessionAction

FILLED: dict[str, list[dict[str, str]]] = {
    "new": [
        {"name": "dev", "profile": "base"},
        {"name": "dev", "profile": "base@2", "gpus": "1", "cpus": "4", "memory": "16GB", "time": "8h"},
        {"name": "dev", "profile": "own/base@2", "gpus": "gpu:intel:2,shard:1", "partition": "gpu", "node": "c[1-2]"},
        {"name": "dev", "profile": "base", "keep": "/opt/cache, home", "fresh": "system", "options": "-C 'a&b' -t 5"},
        {"name": "dev", "profile": "base", "memory": "4G", "options": "--mem 8G", "account": "physics", "qos": "long"},
    ],
    "stop-at": [{"at": "2099-12-24T18:00"}, {"at": "never"}, {"at": "2099-12-24T18:00", "keep": "yes"}],
    "extend": [{"time": "4h"}, {"time": "90"}, {"time": "1:30:00"}],
    "resize": [{"gpus": "none"}, {"gpus": "2", "memory": "1.5G", "options": "--qos=long"}],
    "policies": [
        {"start": "yes"},
        {"start": "default", "wait": "10m"},
        {"wait": "default"},
        {"wait": "0"},
        {"continue": "always"},
        {"continue": "default", "idle": "never"},
        {"start": "no", "wait": "30s", "continue": "12h", "idle": "8h"},
    ],
    "rename": [{"new": "thesis"}],
    "snapshot": [{}, {"label": "before-upgrade"}],
    "rollback": [{"snapshot": "3"}, {"snapshot": "before"}],
    "switch": [{"profile": "other@2"}, {"profile": "other", "fresh": "yes"}],
    "clone": [{"new": "trial"}, {"new": "trial", "snapshot": "3", "profile": "other@1", "start": "yes"}],
    "restore": [{"name": "gone"}, {"name": "gone", "as": "back"}],
    "commit": [{"profile": "own/tools@1"}, {"profile": "tools@1", "snapshot": "3"}],
    "exec": [{"command": "nvidia-smi -l 5"}, {"command": "apt-get install -y 'a b'", "root": "yes"}],
    "share": [
        {"grantee": "bob", "role": "watch"},
        {"grantee": "@physics", "role": "use", "until": "2099-12-24T18:00"},
        {"grantee": "bob", "service": "port-8000"},
        {"grantee": "bob", "snapshot": "3", "until": "3d"},
    ],
    "unshare": [{"grantee": "bob"}, {"grantee": "@physics", "service": "board"}, {"grantee": "bob", "snapshot": "3"}],
    "leave": [{"name": "alice.dev"}, {"name": "alice.dev", "snapshot": "3"}, {"name": "alice.dev", "service": "board"}],
    "diff": [{}, {"from": "3", "to": "4", "content": "yes"}],
}
"""Action → texts of its form, in several ways."""

CASES = [(action_id, texts) for action_id, filled in FILLED.items() for texts in filled]


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        yield running


def filled(action: SessionAction, texts: dict[str, str]) -> Form:
    assert action.make_form is not None
    form = action.make_form()
    for field_id, text in texts.items():
        form.set(field_id, text)
    assert form.errors() == {}
    return form


def parsed(words: list[str]) -> dict[str, Any]:
    """Parse a command line as `berth` does, and return the parameters; nothing runs."""
    command: click.Command = berth
    parent = click.Context(berth, info_name="berth", obj=Invocation())
    rest = words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(parent, rest[0])
        assert found is not None, words
        command, rest = found, rest[1:]
    return command.make_context(command.name, rest, parent=parent).params


def test_every_command_is_an_action_or_has_a_reason_not_to_be() -> None:
    covered = {action.verb[0] for action in ACTIONS}
    assert covered | OTHER_COMMANDS.keys() == COMMANDS.keys()
    assert covered & OTHER_COMMANDS.keys() == {"profile", "list"}
    assert all(len(reason.split()) > 3 for reason in OTHER_COMMANDS.values())


def test_every_action_has_a_key_of_its_own_that_the_list_does_not_use() -> None:
    Catalogue(ACTIONS)  # refuses a taken key
    assert len({action.id for action in ACTIONS}) == len(ACTIONS)
    keyless = {action.id for action in ACTIONS if not action.key}
    assert keyless == {"purge", "verify", "flatten", "gc"}
    assert not any(action.key.startswith("ctrl+") for action in ACTIONS)


def test_every_form_is_among_the_cases() -> None:
    assert FILLED.keys() == {action.id for action in ACTIONS if action.make_form is not None}


def test_every_call_belongs_to_an_action() -> None:
    calls = {action.id: action.make_form is not None for action in ACTIONS if action.mode is RunMode.CALL}
    assert calls == {**dict.fromkeys(FORM_CALLS, True), **dict.fromkeys(PLAIN_CALLS, False)}


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_the_line_without_a_form_shows_what_is_to_be_replaced(action: SessionAction) -> None:
    words = action.command(view("dev"))
    assert words[: 1 + len(action.verb)] == ["berth", *action.verb]
    assert ("dev" in words) == action.needs_session
    assert all(word in words for word in action.missing)


@pytest.mark.parametrize(("action_id", "texts"), CASES, ids=str)
def test_the_command_line_is_one_that_berth_accepts(action_id: str, texts: dict[str, str]) -> None:
    action = find_action(action_id)
    parsed(action.command_line([view("dev")], filled(action, texts)))


@pytest.mark.parametrize(("action_id", "texts"), [case for case in CASES if case[0] in FORM_CALLS], ids=str)
def test_the_command_line_makes_the_same_request(
    controller: ScriptedController, action_id: str, texts: dict[str, str]
) -> None:
    words = find_action(action_id).command_line([view("dev")], filled(find_action(action_id), texts))
    prepare(controller)
    result = run(*words[1:], *without_waiting(words))
    asked = changes(controller)
    assert asked, result.output
    prepare(controller)
    send(Client(controller.socket), action_id, "dev", filled(find_action(action_id), texts))
    assert normal(changes(controller)) == normal(asked)


@pytest.mark.parametrize("action_id", PLAIN_CALLS)
def test_the_plain_command_line_makes_the_same_request(controller: ScriptedController, action_id: str) -> None:
    words = find_action(action_id).command_line([view("dev")])
    running = action_id in {"stop", "restart"}
    prepare(controller, running=running)
    result = run(*words[1:], *without_waiting(words))
    asked = changes(controller)
    assert asked, result.output
    prepare(controller, running=running)
    send(Client(controller.socket), action_id, "dev", None)
    assert normal(changes(controller)) == normal(asked)


def prepare(controller: ScriptedController, *, running: bool = False) -> None:
    """Give the controller a session dev, and forget what it was asked."""
    controller.asked.clear()
    controller.script.clear()
    controller.sessions = {"dev": ready("dev") if running else view("dev")}
    controller.deleted = {"gone": view("gone", SessionState.DELETED, kept_until=CREATED)}
    controller.snapshots["dev"] = []
    report = CheckReport(session=controller.sessions["dev"], ends_job=False)
    controller.answers = {"POST /v1/sessions/dev/check": report}


def changes(controller: ScriptedController) -> list[tuple[str, str, Any]]:
    return [each for each in controller.asked if each[0] != "GET" and not each[1].endswith("/check")]


def normal(asked: list[tuple[str, str, Any]]) -> list[tuple[str, str, Any]]:
    """Leave out fields with the value that the API takes without them."""
    return [
        (
            method,
            path,
            {name: value for name, value in body.items() if value not in (None, [], False)}
            if isinstance(body, dict)
            else body,
        )
        for method, path, body in asked
    ]


def without_waiting(words: list[str]) -> list[str]:
    """Return the options with which the command asks nothing, and hardly waits."""
    command = berth.get_command(click.Context(berth), words[1])
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    options = {"--yes": ["--yes"], "--no-wait": ["--no-wait"], "--timeout": ["--timeout=0.01"]}
    return [word for option, given in options.items() if option in known for word in given]


def test_an_invalid_form_sends_nothing(controller: ScriptedController) -> None:
    prepare(controller)
    for action_id in FORM_CALLS:
        form = find_action(action_id).make_form()  # type: ignore[misc]  # they all have one
        form.set(form.fields[0].id, "\x1b[31m")
        with pytest.raises(InvalidFormError):
            send(Client(controller.socket), action_id, "dev", form)
    assert controller.asked == []


ALLOWED = {
    SessionState.SUBMITTING: "stop stop-at restart rollback switch",
    SessionState.QUEUED: "stop stop-at restart rollback switch",
    SessionState.STARTING: "stop stop-at restart extend resize rollback switch",
    SessionState.READY: "stop stop-at restart extend resize rollback switch snapshot",
    SessionState.STOPPING: "rollback switch snapshot",
    SessionState.STOPPED: "start rename delete purge flatten rollback switch snapshot",
    SessionState.FAILED: "start stop rename delete purge flatten rollback switch snapshot",
    SessionState.CHANGING: "stop",
    SessionState.DELETING: "",
}
"""State → the actions that only some states allow, as docs/behaviour.md has them."""


@pytest.mark.parametrize("state", ALLOWED)
def test_actions_are_allowed_as_the_behaviour_says(state: SessionState) -> None:
    limited = {word for words in ALLOWED.values() for word in words.split()}
    session = view("dev", state)
    for action_id in limited:
        reason = find_action(action_id).refusal(session)
        assert (reason is None) == (action_id in ALLOWED[state].split()), (action_id, reason)


def test_only_a_resize_that_waits_is_cancelled() -> None:
    action = find_action("cancel-resize")
    assert action.refusal(ready("dev")) == "no resize of it waits"
    assert action.refusal(ready("dev", resizing=True, beside=True, next_job_id=8)) is None
    assert action.command_line([view("dev")]) == ["berth", "resize", "dev", "--cancel"]


def test_an_unknown_state_forbids_everything_and_breaks_nothing() -> None:
    strange = JsonRecord(view("dev").model_dump(mode="json") | {"state": "hibernating"})
    reasons = {action.refusal(cast("SessionView", strange)) for action in ACTIONS if action.needs_session}
    assert reasons == {"its state is unknown to this version of Berth"}


def test_a_pending_operation_forbids_further_ones() -> None:
    busy = view("dev", SessionState.STOPPED, operation=operation("rollback"))
    for action_id in ("rollback", "switch", "snapshot", "clone", "delete", "rename"):
        assert find_action(action_id).refusal(busy) == "it is rolling back; wait for the end"
    assert find_action("stop").refusal(busy) is None


def test_root_mode_forbids_logins_and_operations() -> None:
    root = ready("dev", root=True)
    for action_id in ("ssh", "snapshot", "rollback", "switch", "clone"):
        assert "root mode" in str(find_action(action_id).refusal(root))
    assert find_action("stop").refusal(root) is None


def test_several_sessions_only_where_the_command_takes_several() -> None:
    pair = [ready("one"), ready("two")]
    assert refusal(find_action("stop"), pair) is None
    assert find_action("stop").command_line(pair) == ["berth", "stop", "one", "two"]
    assert refusal(find_action("extend"), pair) == "this action is for one session, and 2 are marked"
    assert refusal(find_action("stop"), []) == "choose a session first"
    assert refusal(find_action("new"), []) is None


def test_only_what_ends_programs_asks_because_of_a_job() -> None:
    assert needs_confirmation(find_action("stop"), [ready()])
    assert not needs_confirmation(find_action("stop"), [view("dev", SessionState.CHANGING)])
    assert needs_confirmation(find_action("delete"), [view()])
    assert needs_confirmation(find_action("purge"), [view()])
    assert not any(needs_confirmation(action, [ready()]) for action in ACTIONS if action.danger is Danger.NONE)


def test_a_list_of_deleted_sessions_limits_the_names() -> None:
    form = restore_form(("gone",))
    form.set("name", "other")
    assert form.errors() == {"name": "other is not a deleted session; there are gone"}


def test_the_name_of_an_action_is_that_of_its_operation() -> None:
    operations = OPERATIONS.keys() - {"promote", "root", "commit-root", "upgrade"}
    assert operations <= {action.id for action in ACTIONS}
