"""`berth list --shared --watch`: what others share, again after each change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from broker.cli import shared_list
from broker.errors import ControllerUnavailableError
from broker.schema.grants import Role, SharedList, SharedSession
from broker.schema.sessions import SessionState
from tests.fakes.command_line import run
from tests.fakes.controller import ScriptedController, ready, view

if TYPE_CHECKING:
    from collections.abc import Callable

READY = SharedSession(session=ready("alice.dev"), role=Role.PAIR, via="bob")
STOPPED = SharedSession(session=view("alice.dev", SessionState.STOPPED), role=Role.PAIR, via="bob")
ROUTE = "GET /v1/shared"


@pytest.fixture
def steps(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """The events of each pause of the command; Ctrl-C comes in the one after the last."""
    found: list[Callable[[], object]] = []

    def pause(seconds: float) -> None:
        assert seconds == shared_list.POLL_S
        if not found:
            raise KeyboardInterrupt
        found.pop(0)()

    monkeypatch.setattr("broker.cli.shared_list.time.sleep", pause)
    controller.answers[ROUTE] = SharedList(sessions=[READY])
    return found


def answer(controller: ScriptedController, *sessions: SharedSession) -> None:
    controller.answers[ROUTE] = SharedList(sessions=list(sessions))


def test_each_change_is_one_object(controller: ScriptedController, steps: list[Callable[[], object]]) -> None:
    steps += [lambda: None, lambda: answer(controller, STOPPED), lambda: answer(controller)]
    lines = [json.loads(line) for line in run("list", "--shared", "--watch", "--json").stdout.splitlines()]
    assert [[each["session"]["state"] for each in line["sessions"]] for line in lines] == [["ready"], ["stopped"], []]


def test_each_change_is_one_table(controller: ScriptedController, steps: list[Callable[[], object]]) -> None:
    steps += [lambda: None, lambda: answer(controller)]
    lines = run("list", "--shared", "--watch").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "alice.dev", "No"]
    assert lines[1].split()[-2:] == ["pair", "bob"]


def test_a_controller_that_is_away_later_is_waited_for(
    controller: ScriptedController, steps: list[Callable[[], object]]
) -> None:
    away = ControllerUnavailableError("the controller does not answer")
    steps += [
        lambda: controller.failures.update({ROUTE: away}),
        controller.failures.clear,
        lambda: answer(controller, STOPPED),
    ]
    lines = [json.loads(line) for line in run("list", "--shared", "--watch", "--json").stdout.splitlines()]
    assert [line["sessions"][0]["session"]["state"] for line in lines] == ["ready", "stopped"]


def test_a_controller_that_is_away_at_first_is_an_error(
    controller: ScriptedController, steps: list[Callable[[], object]]
) -> None:
    controller.failures[ROUTE] = ControllerUnavailableError("the controller does not answer")
    assert run("list", "--shared", "--watch").exit_code == ControllerUnavailableError.exit_code
    assert steps == []


def test_names_alone_are_not_watched(controller: ScriptedController) -> None:
    result = run("list", "--shared", "--watch", "--output", "name")
    assert result.exit_code == 2
    assert controller.asked == []
