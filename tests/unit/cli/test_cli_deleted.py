"""`berth delete`, `list --deleted` and `restore`: until when a session can be restored, and what is restored."""

from __future__ import annotations

import json
import time

import pytest

from broker.schema import sessions
from broker.schema.sessions import SessionState
from tests.fakes.command_line import run
from tests.fakes.controller import CREATED, ScriptedController, operation, posted, view

pytestmark = pytest.mark.usefixtures("dev")


@pytest.mark.parametrize("words", [(), ("--no-wait",)])
def test_delete_says_until_when_it_can_be_brought_back(controller: ScriptedController, words: tuple[str, ...]) -> None:
    until = time.time() + 7 * 86400
    controller.script["dev"] += [view("dev", SessionState.DELETING, kept_until=until), None]
    result = run("delete", "dev", "--yes", *words)
    day = time.strftime("%Y-%m-%d", time.localtime(until))
    assert result.stderr.splitlines()[-1].startswith(
        f"dev is {'being ' if words else ''}deleted; `berth restore dev` restores it until {day} "
    )


def test_delete_purge(controller: ScriptedController) -> None:
    controller.script["dev"] += [view("dev", SessionState.DELETING), None]
    result = run("delete", "dev", "--purge", "--yes")
    assert result.stderr.splitlines()[-1] == "dev is deleted permanently"
    assert ("DELETE", "/v1/sessions/dev?purge", None) in controller.asked


def test_deleted_sessions_are_listed_and_restored(controller: ScriptedController) -> None:
    gone = view(
        "old", SessionState.DELETED, kept_until=CREATED, volumes=sessions.Volumes(driver="overlay", snapshots=4)
    )
    controller.deleted["old"] = gone
    lines = run("list", "--deleted").stdout.splitlines()
    assert lines[0].split() == ["NAME", "PROFILE", "KEPT", "UNTIL", "SNAPSHOTS"]
    assert (lines[1].split()[:2], lines[1].split()[-1]) == (["old", "base@1"], "4")
    assert json.loads(run("list", "--deleted", "--json").stdout)["sessions"][0]["kept_until"] == CREATED
    controller.script["dev2"] += [
        view("dev2", SessionState.CHANGING, operation=operation("restore")),
        view("dev2", operation=operation("restore", "done")),
    ]
    result = run("restore", "old", "--as", "dev2")
    assert result.stderr.splitlines()[-1] == "dev2 was restored; `berth start dev2` starts it"
    assert posted(controller) == [("/v1/deleted/old/restore", {"name": "dev2"})]
    assert run("list", "--deleted").stderr == "There is nothing to restore.\n"
    assert run("restore", "old").exit_code == 3


def test_restore_as_json(controller: ScriptedController) -> None:
    controller.deleted["old"] = view("old", operation=operation("restore", "done"))
    assert json.loads(run("restore", "old", "--json").stdout)["state"] == "stopped"
