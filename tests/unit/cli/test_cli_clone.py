"""`berth clone`: what it asks, says and ends with."""

from __future__ import annotations

import json
from typing import NoReturn

import pytest

from broker.client import http
from broker.schema.sessions import SessionState
from tests.fakes.command_line import run
from tests.fakes.controller import ScriptedController, operation, posted, ready, view

pytestmark = pytest.mark.usefixtures("dev")


def test_ctrl_c_while_a_clone_is_made(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(http, "_split", interrupted)
    result = run("clone", "dev", "trial")
    assert result.exit_code == 130
    assert "berth: interrupted; trial is still being cloned\n" in result.stderr
    assert controller.sessions["trial"].state is SessionState.CHANGING


def test_clone(controller: ScriptedController) -> None:
    making = view("trial", SessionState.CHANGING, operation=operation("clone"))
    controller.script["trial"] += [making, view("trial", operation=operation("clone", "done"))]
    result = run("clone", "dev", "trial", "--at", "12", "--profile", "base@2")
    assert result.stderr.splitlines() == ["trial: being cloned", "trial was created; `berth start trial` starts it"]
    assert result.stdout == ""
    [(path, body)] = posted(controller)
    assert path == "/v1/sessions/dev/clone"
    assert body == {"name": "trial", "at": "12", "profile": "base", "version": "2", "start": False}


def test_clone_and_start(controller: ScriptedController) -> None:
    controller.script["trial"] += [
        view("trial", SessionState.CHANGING, operation=operation("clone")),
        view("trial", SessionState.QUEUED, operation=operation("clone", "done")),
        ready("trial", operation=operation("clone", "done")),
    ]
    result = run("clone", "dev", "trial", "--start")
    assert result.stdout == "berth ssh trial\n"
    [(path, body)] = posted(controller)
    assert (path, body["start"]) == ("/v1/sessions/dev/clone", True)


def test_a_clone_that_could_not_be_started_is_there(controller: ScriptedController) -> None:
    done = operation("clone", "done")
    controller.script["trial"] += [view("trial", SessionState.STOPPED, operation=done, reason="no such account")]
    result = run("clone", "dev", "trial", "--start")
    assert result.exit_code == 1
    assert "berth: trial was created but did not become ready; it is stopped: no such account\n" in result.stderr
    assert "`berth start trial` starts it" in result.stderr


def test_clone_as_json_and_without_waiting(controller: ScriptedController) -> None:
    making = view("trial", SessionState.CHANGING, operation=operation("clone"))
    controller.script["trial"] += [making] * 2
    assert run("clone", "dev", "trial", "--no-wait").stderr == "trial is being created\n"
    assert json.loads(run("clone", "dev", "trial", "--no-wait", "--json").stdout)["name"] == "trial"


def test_a_clone_that_could_not_be_made_is_gone(controller: ScriptedController) -> None:
    making = view("trial", SessionState.CHANGING, operation=operation("clone"))
    controller.script["trial"] += [making, None]
    result = run("clone", "dev", "trial", "--at", "12")
    assert result.exit_code == 1
    assert result.stderr.endswith("berth: trial could not be created\n  hint: `berth events` shows why\n")
