"""A command whose operation was undone waits until the session is as before, and says why."""

from __future__ import annotations

import pytest

from broker.schema.sessions import SessionState
from tests.fakes.command_line import run
from tests.fakes.controller import ScriptedController, operation, ready, view
from tests.unit.cli.test_cli_snapshots import kept

pytestmark = pytest.mark.usefixtures("dev")

MESSAGE = "dev did not become ready after rolling back: no sshd; it starts again as it was before the rollback"
PENDING, DONE = operation("rollback"), operation("rollback", "done", undo="berth rollback dev 4")
UNDONE = operation("rollback", "failed", reversed=True, reason="failed", message=MESSAGE, hint="`berth logs dev`")
WAY = [
    view("dev", SessionState.STOPPING, operation=PENDING),
    view("dev", SessionState.STARTING, operation=DONE),
    view("dev", SessionState.STOPPING, operation=PENDING),
    view("dev", SessionState.CHANGING, operation=PENDING),
    view("dev", SessionState.SUBMITTING, operation=UNDONE),
]


@pytest.fixture(autouse=True)
def runs(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    controller.snapshots["dev"] = [kept(1)]
    controller.logs["dev"].append("last words\n")


def test_it_waits_until_the_session_is_as_before(controller: ScriptedController) -> None:
    controller.script["dev"] += [*WAY, ready(operation=UNDONE)]
    result = run("rollback", "dev", "1", "--yes")
    assert result.exit_code == 1
    assert result.stderr.endswith(f"dev: submitting the job to Slurm\nberth: {MESSAGE}\n  hint: `berth logs dev`\n")


def test_a_session_that_does_not_start_as_before_has_failed(controller: ScriptedController) -> None:
    controller.script["dev"] += [*WAY, view("dev", SessionState.FAILED, reason="the job failed", operation=UNDONE)]
    result = run("rollback", "dev", "1", "--yes")
    assert result.exit_code == 1
    assert "berth: dev failed: the job failed" in result.stderr


def test_one_that_missed_it_reads_it_too(controller: ScriptedController) -> None:
    controller.script["dev"] += [WAY[0], ready(operation=UNDONE)]
    result = run("rollback", "dev", "1", "--yes")
    assert (result.exit_code, MESSAGE in result.stderr) == (1, True)


def test_a_restart_that_needed_two_tries_says_so(controller: ScriptedController) -> None:
    pending, undone = operation("restart"), UNDONE.model_copy(update={"id": operation("restart").id})
    controller.script["dev"] += [
        view("dev", SessionState.STOPPING, operation=pending),
        view("dev", SessionState.SUBMITTING, operation=undone),
        ready(operation=undone),
    ]
    result = run("restart", "dev", "--yes")
    assert (result.exit_code, MESSAGE in result.stderr) == (1, True)


def test_a_later_start_says_nothing_of_it(controller: ScriptedController) -> None:
    controller.sessions["dev"] = view("dev", SessionState.STOPPED, operation=UNDONE)
    controller.script["dev"] += [
        view("dev", SessionState.SUBMITTING, operation=UNDONE),
        ready(operation=UNDONE),
    ]
    result = run("start", "dev")
    assert (result.exit_code, MESSAGE in result.stderr) == (0, False)


def test_another_operation_after_a_successful_one_is_no_failure(controller: ScriptedController) -> None:
    other = operation("snapshot", id="another")
    controller.script["dev"] += [WAY[0], WAY[1], ready(operation=other)]
    assert run("rollback", "dev", "1", "--yes").exit_code == 0


@pytest.mark.parametrize("command", ["show", "explain"])
def test_it_is_shown_until_the_next_operation(controller: ScriptedController, command: str) -> None:
    controller.sessions["dev"] = ready(operation=UNDONE)
    result = run(command, "dev")
    assert f"was undone: {MESSAGE}" in " ".join(result.stdout.split())
