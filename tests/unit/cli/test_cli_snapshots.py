"""`berth snapshot`, `snapshots`, `rollback` and `switch`: what they ask, say and end with."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from typing import Any, NoReturn

import pytest

from broker import errors
from broker.cli import output
from broker.client.client import Client
from broker.schema import sessions, volumes
from broker.schema.checks import StartEstimate
from broker.schema.sessions import SessionState
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import run
from tests.fakes.controller import CREATED, ScriptedController, operation, posted, ready, view

pytestmark = pytest.mark.usefixtures("dev")
BERTH = (sys.executable, "-m", "broker.cli")


def kept(number: int, **values: Any) -> volumes.SnapshotView:  # noqa: ANN401 - any field
    defaults = {"number": number, "at": CREATED, "consistency": "stopped", "profile": "base", "version": "1"}
    return volumes.SnapshotView.model_validate(defaults | values)


def changing(verb: str, **values: object) -> sessions.SessionView:
    return view("dev", SessionState.CHANGING, operation=operation(verb), **values)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (kept(3), "dev: snapshot 3, of the stopped session"),
        (
            kept(3, label="good", consistency="frozen", pause=0.0414),
            "dev: snapshot 3 (good), of the running session, with all processes frozen for 41 ms",
        ),
        (kept(3, consistency="crash-consistent"), "crash-consistent: not all processes could be frozen"),
    ],
)
def test_a_snapshot_says_what_it_is_of(controller: ScriptedController, made: volumes.SnapshotView, says: str) -> None:
    controller.snapshots["dev"] = [kept(2), made]
    controller.script["dev"] += [
        ready(operation=operation("snapshot")),
        ready(operation=operation("snapshot", "done", snapshot=3)),
    ]
    result = run("snapshot", "dev", *([made.label] if made.label else []))
    assert (result.exit_code, result.stdout) == (0, "3\n")
    lines = result.stderr.splitlines()
    assert lines[0] == "dev: ready on c2; taking a snapshot"
    assert says in lines[1]
    assert posted(controller) == [("/v1/sessions/dev/snapshots", {"label": made.label or None})]


def test_terminal_gets_a_sentence_instead_of_the_bare_number(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda _: True)
    controller.snapshots["dev"] = [kept(1)]
    controller.script["dev"].append(view(operation=operation("snapshot", "done", snapshot=1)))
    result = run("snapshot", "dev")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines()[-1] == "to return to it: berth rollback dev 1"


def test_a_snapshot_that_is_made_at_once(controller: ScriptedController) -> None:
    controller.snapshots["dev"] = [kept(1)]
    controller.script["dev"].append(view(operation=operation("snapshot", "done", snapshot=1)))
    result = run("snapshot", "dev", "--json")
    assert volumes.SnapshotView.model_validate(json.loads(result.stdout)) == kept(1)
    assert result.stderr == ""


def test_a_snapshot_is_not_waited_for(controller: ScriptedController) -> None:
    controller.script["dev"] += [ready(operation=operation("snapshot"))] * 2
    assert run("snapshot", "dev", "--no-wait").stderr == "dev: ready on c2; taking a snapshot\n"
    assert json.loads(run("snapshot", "dev", "--no-wait", "--json").stdout)["operation"]["status"] == "pending"
    assert run("snapshot", "dev", "--timeout", "0.05").exit_code == 8


def test_a_snapshot_that_was_deleted_before_it_was_looked_at(controller: ScriptedController) -> None:
    controller.script["dev"].append(view(operation=operation("snapshot", "done", snapshot=1)))
    result = run("snapshot", "dev")
    assert result.exit_code == 3
    assert "`berth events dev`" in result.stderr


@pytest.mark.parametrize("words", [("snapshot", "dev", "3"), ("snapshot", "dev", "-x"), ("rollback", "dev", "0")])
def test_what_is_no_label_or_reference(controller: ScriptedController, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2
    assert controller.asked == []


def test_a_failed_operation_says_why_and_how_to_mend_it(controller: ScriptedController) -> None:
    failure = operation(
        "snapshot", "failed", reason="conflict", message="dev has a job that is ending", hint="try again"
    )
    controller.script["dev"] += [changing("snapshot"), view(operation=failure)]
    result = run("snapshot", "dev")
    assert result.exit_code == 5
    assert result.stderr.endswith("berth: dev has a job that is ending\n  hint: try again\n")


def test_an_operation_that_another_one_follows_at_once(controller: ScriptedController) -> None:
    controller.script["dev"] += [changing("snapshot"), changing("rollback")]
    result = run("snapshot", "dev")
    assert result.exit_code == 5
    assert "`berth events dev`" in result.stderr


def test_snapshots_as_a_table(controller: ScriptedController) -> None:
    controller.snapshots["dev"] = [
        kept(1, label="clean"),
        kept(2, automatic=True, reason="before rollback to 1", consistency="frozen", pause=0.04),
    ]
    lines = run("snapshots", "dev").stdout.splitlines()
    assert lines[0].split() == ["NUMBER", "WHEN", "LABEL/WHY", "PROFILE", "CONSISTENCY"]
    assert lines[1].split()[-3:] == ["clean", "base@1", "stopped"]
    assert "automatic  before rollback to 1  base@1   frozen for 40 ms" in lines[2]
    assert [each["number"] for each in json.loads(run("snapshots", "dev", "--json").stdout)["snapshots"]] == [1, 2]


def test_no_snapshots(controller: ScriptedController) -> None:
    assert controller.snapshots["dev"] == []
    result = run("snapshots", "dev")
    assert (result.stdout, result.stderr) == ("", "dev has no snapshots. `berth snapshot dev` makes one.\n")


def test_a_snapshot_is_deleted_only_after_asking(controller: ScriptedController) -> None:
    controller.snapshots["dev"] = [kept(1, label="clean"), kept(2)]
    refused = run("snapshots", "dev", "--delete", "clean")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    result = run("snapshots", "dev", "--delete", "clean", "--yes")
    assert result.stderr.startswith("deleted snapshot 1 (clean) of dev; its disk space ")
    assert json.loads(run("snapshots", "dev", "--delete", "2", "--yes", "--json").stdout)["number"] == 2
    assert run("snapshots", "dev", "--delete", "2", "--yes").exit_code == 3
    assert controller.snapshots["dev"] == []


def test_rollback_of_a_stopped_session_asks_nothing_and_says_how_to_undo_it(controller: ScriptedController) -> None:
    controller.snapshots["dev"] = [kept(1), kept(2, label="good"), kept(3)]
    done = operation("rollback", "done", message="dev is as in snapshot 3", undo="berth rollback dev 4", snapshot=4)
    controller.script["dev"] += [changing("rollback"), view(operation=done)]
    result = run("rollback", "dev", "3")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "dev: rolls back to snapshot 3; its present state becomes a snapshot; it has no job and stays stopped",
        "dev: rolling back",
        "dev is as in snapshot 3",
        "to undo: berth rollback dev 4",
    ]
    assert posted(controller) == [("/v1/sessions/dev/rollback", {"snapshot": "3"})]


def test_rollback_of_a_running_session_needs_a_yes_and_waits_until_it_is_back(controller: ScriptedController) -> None:
    controller.snapshots["dev"] = [kept(1), kept(2, label="good"), kept(3)]
    controller.sessions["dev"] = ready()
    refused = run("rollback", "dev", "good")
    assert refused.exit_code == 2
    assert "its programs end, and it is started again" in refused.stderr
    assert "dev was not rolled back: there is no terminal to ask at" in refused.stderr
    assert posted(controller) == []
    pending, done = operation("rollback"), operation("rollback", "done", undo="berth rollback dev 4")
    controller.script["dev"] += [
        view("dev", SessionState.STOPPING, reason="waiting for the job to end", operation=pending),
        view("dev", SessionState.CHANGING, operation=pending),
        view("dev", SessionState.SUBMITTING, operation=done, keeps_job=True),
        view("dev", SessionState.STARTING, reason="starting on c2", operation=done),
        ready(operation=done),
    ]
    result = run("rollback", "dev", "good", "--yes")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[1:] == [
        "dev: stopping: waiting for the job to end; then rolling back",
        "dev: rolling back",
        "dev: starting again in its job",
        "dev: starting on c2",
        "rolled dev back to snapshot good",
        "dev: ready on c2",
        "to undo: berth rollback dev 4",
    ]


def test_a_session_that_does_not_come_back_after_a_rollback(controller: ScriptedController) -> None:
    controller.snapshots["dev"] = [kept(1), kept(2, label="good"), kept(3)]
    controller.sessions["dev"] = ready()
    done = operation("rollback", "done")
    controller.script["dev"] += [
        view("dev", SessionState.QUEUED, operation=done),
        view("dev", SessionState.FAILED, reason="the node failed", operation=done),
    ]
    controller.logs["dev"].append("last words\n")
    result = run("rollback", "dev", "1", "--yes")
    assert result.exit_code == 1
    assert "last words" in result.stderr
    assert "berth: dev failed: the node failed" in result.stderr


def test_rollback_that_was_followed_by_a_stop(controller: ScriptedController) -> None:
    controller.snapshots["dev"] = [kept(1), kept(2, label="good"), kept(3)]
    controller.sessions["dev"] = ready()
    controller.script["dev"] += [changing("rollback"), view(operation=operation("rollback", "done"))]
    result = run("rollback", "dev", "1", "--yes", "--json")
    assert json.loads(result.stdout)["state"] == "stopped"
    assert result.stderr == ""


def test_rollback_is_not_waited_for(controller: ScriptedController) -> None:
    controller.snapshots["dev"] = [kept(1), kept(2, label="good"), kept(3)]
    controller.script["dev"].append(changing("rollback"))
    result = run("rollback", "dev", "1", "--no-wait")
    assert result.stderr.splitlines()[1:] == ["dev: rolling back"]
    late = run("rollback", "dev", "1", "--timeout", "0.05")
    assert late.exit_code == 8
    assert "dev is still rolling back" in late.stderr


def test_ctrl_c_leaves_it_rolling_back(controller: ScriptedController) -> None:
    controller.snapshots["dev"] = [kept(1), kept(2, label="good"), kept(3)]
    controller.script["dev"] += [changing("rollback")] * 2
    with subprocess.Popen([*BERTH, "rollback", "dev", "1"], stderr=subprocess.PIPE, text=True) as process:
        try:
            controller.wait_asked("GET", "/v1/sessions/dev?after&wait")
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        assert process.stderr is not None
        assert "berth: interrupted; dev is still rolling back\n  hint: `berth show dev`" in process.stderr.read()


@pytest.mark.parametrize(
    ("call", "words", "goes_on"),
    [
        ("snapshot", ("snapshot", "dev"), "dev is still taking a snapshot"),
        ("switch", ("switch", "dev", "base@2"), "dev is still switching its profile"),
        ("restore", ("restore", "old", "--as", "new"), "new is still being restored"),
    ],
)
def test_ctrl_c_while_the_controller_answers(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, call: str, words: tuple[str, ...], goes_on: str
) -> None:
    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, call, interrupted)
    result = run(*words)
    assert result.exit_code == 130
    assert f"berth: interrupted; {goes_on}\n" in result.stderr
    assert posted(controller) == []


@pytest.mark.parametrize(
    "words",
    [
        ("rollback", "dev", "nosuch"),
        ("switch", "dev", "nosuch"),
        ("snapshots", "dev", "--delete", "nosuch"),
        ("exec", "--root", "dev", "--", "true"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_question(
    controller: ScriptedController, words: tuple[str, ...]
) -> None:
    controller.sessions["dev"] = ready()
    controller.snapshots["dev"] = [kept(1)]
    if words[1] != "dev" or words[0] == "switch":
        controller.failures["POST /v1/sessions/dev/check"] = errors.NotFoundError("no profile is called nosuch")
    result = run(*words)
    assert (result.exit_code, "nosuch" in result.stderr) == (3, True), result.stderr
    assert "terminal" not in result.stderr, "nothing was asked"
    assert posted(controller) == []


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_a_running_session_is_asked_about_at_a_terminal(
    controller: ScriptedController, answer: bytes, code: int
) -> None:
    controller.sessions["dev"] = ready()
    controller.estimates["dev"] = StartEstimate(at=time.time() + 7300, waiting=3)
    controller.script["dev"].append(ready(operation=operation("switch", "done", message="done")))
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*BERTH, "switch", "dev", "base@2"], stdin=follower, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(follower)
        os.write(leader, answer)
        assert process.wait(DEADLINE_S) == code
        assert process.stderr is not None
        said = process.stderr.read()
        expected = "it may have to wait, since 3 other jobs wait for resources; Slurm expects to start it at "
        assert said.index(f"dev: {expected}") < said.index("End all programs in dev?")
        assert "(in 2 h 1 min)" in said
    os.close(leader)
    assert len(posted(controller)) == (code == 0)


def test_switch(controller: ScriptedController) -> None:
    done = operation("switch", "done", undo="berth switch dev base@1")
    controller.script["dev"] += [changing("switch"), view(operation=done)]
    result = run("switch", "dev", "triton-xpu@2", "--fresh")
    assert result.stderr.splitlines() == [
        "dev: switches from base@1 to triton-xpu@2; keeps its home and a snapshot of its present state; "
        "it has no job and stays stopped",
        "dev: switching its profile",
        "switched dev to triton-xpu@2",
        "to undo: berth switch dev base@1",
    ]
    [(path, body)] = posted(controller)
    assert path == "/v1/sessions/dev/switch"
    assert body == {"profile": "triton-xpu", "version": "2", "fresh": True, "persistence": None}


@pytest.mark.parametrize("words", [("snapshots", "dev"), ("snapshot", "dev"), ("rollback", "dev", "1", "--yes")])
def test_what_the_controller_refuses(controller: ScriptedController, words: tuple[str, ...]) -> None:
    controller.snapshots["dev"] = [kept(1)]
    refusal = errors.ConflictError("dev is rolling back", hint="wait")
    controller.failures |= dict.fromkeys(
        ("GET /v1/sessions/dev/snapshots", "POST /v1/sessions/dev/snapshots", "POST /v1/sessions/dev/rollback"), refusal
    )
    result = run(*words)
    assert result.exit_code == 5
    assert result.stderr.endswith("berth: dev is rolling back\n  hint: wait\n")
