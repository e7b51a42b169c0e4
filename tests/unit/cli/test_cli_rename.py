"""`berth rename`: what it requests, prints and refuses."""

from __future__ import annotations

import json

import pytest

from broker import errors
from broker.schema.sessions import SessionState
from tests.fakes.command_line import run
from tests.fakes.controller import ScriptedController, operation, posted, view

pytestmark = pytest.mark.usefixtures("dev")


def test_rename_waits_and_prints_how_to_undo_it(controller: ScriptedController) -> None:
    done = operation("rename", "done", message="renamed dev to thesis", undo="berth rename thesis dev")
    controller.script["thesis"] += [
        view("thesis", SessionState.CHANGING, operation=operation("rename")),
        view("thesis", operation=done),
    ]
    result = run("rename", "dev", "thesis")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-2:] == ["renamed dev to thesis", "to undo: berth rename thesis dev"]
    assert posted(controller) == [("/v1/sessions/dev/rename", {"name": "thesis"})]


def test_rename_as_json(controller: ScriptedController) -> None:
    controller.script["thesis"] += [view("thesis", operation=operation("rename", "done"))]
    result = run("rename", "dev", "thesis", "--json")
    assert json.loads(result.stdout)["name"] == "thesis"
    assert result.stderr == ""


def test_a_rename_that_failed_later_names_the_events_of_the_former_name(controller: ScriptedController) -> None:
    controller.script["thesis"] += [
        view("thesis", SessionState.CHANGING, operation=operation("rename")),
        errors.NotFoundError("you have no session named thesis"),
    ]
    result = run("rename", "dev", "thesis")
    assert result.exit_code == 1
    assert "berth: dev could not be renamed\n" in result.stderr
    assert "`berth events dev`" in result.stderr


def test_a_wrong_new_name_is_refused_before_any_request(controller: ScriptedController) -> None:
    assert run("rename", "dev", "Thesis").exit_code == 2
    assert posted(controller) == []
