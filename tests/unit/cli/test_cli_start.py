"""`berth start`: what it asks for, what it says while it waits, and every way in which waiting ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from broker import errors
from broker.schema.sessions import SessionState
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ScriptedController, plain, ready, view

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        running.sessions["dev"] = view("dev", SessionState.SUBMITTING)
        yield running


def asked_for(controller: ScriptedController) -> dict[str, object]:
    method, path, body = controller.asked[0]
    assert (method, path) == ("POST", "/v1/sessions/dev/start")
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize(
    "words",
    [
        ("--profile", "base@2", "--no-wait", "--gres=gpu:intel:1", "-t", "8:00:00", "--mem", "16G"),
        ("--gres", "gpu:intel:1", "--profile=base@2", "-t8:00:00", "--no-wait", "--mem=16G"),
        ("--gres", "gpu:intel:1", "--time=8:00:00", "--mem", "16G", "--profile", "base@2", "--no-wait"),
    ],
)
def test_options_of_sbatch_and_our_own_in_any_order(controller: ScriptedController, words: tuple[str, ...]) -> None:
    result = run("start", "dev", *words)
    assert result.exit_code == 0, result.output
    asked = asked_for(controller)
    assert (asked["profile"], asked["version"]) == ("base", "2")
    assert asked["options"] == ["--gres=gpu:intel:1", "--time=8:00:00", "--mem=16G"]


def test_an_existing_session_needs_no_profile(controller: ScriptedController) -> None:
    run("start", "dev", "--no-wait")
    assert asked_for(controller) == {"profile": None, "version": None, "options": [], "persistence": None}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--grse=gpu:1",), "--gres"),
        (("--comment=x",), "--comment"),
        (("--mem=1G", "gpu"), "`gpu` is not an option of sbatch"),
        (("--profile", "base@../x"), "version"),
        (("--profile", "Base"), "try 'base'"),
        (("--timeout", "0"), "--timeout"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_asked(
    controller: ScriptedController, words: tuple[str, ...], says: str
) -> None:
    result = run("start", "dev", *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert controller.asked == []


def test_the_name_comes_first(controller: ScriptedController) -> None:
    result = run("start", "--gres=gpu:1", "dev")
    assert result.exit_code == 2
    assert "put the session's name before" in result.stderr
    assert controller.asked == []


def test_progress_and_the_way_in(controller: ScriptedController) -> None:
    soon = time.time() + 600
    controller.script["dev"] += [
        view("dev", SessionState.SUBMITTING),
        view("dev", SessionState.QUEUED, reason="Resources", expected_start_at=soon),
        view("dev", SessionState.QUEUED, reason="Resources", stale_since=time.time()),
        view("dev", SessionState.STARTING, reason="starting on c2"),
        ready(),
    ]
    result = run("start", "dev")
    lines = result.stderr.splitlines()
    assert result.exit_code == 0
    assert result.stdout == "berth ssh dev\n"
    assert lines[0] == "dev: submitting the job to Slurm"
    assert lines[1].startswith("dev: queued: Resources (waiting for free resources), expected to start ")
    assert "Slurm does not answer" in lines[2]
    assert lines[3:] == ["dev: starting on c2", "dev is ready on c2"]


def test_json_prints_the_session_and_nothing_else(controller: ScriptedController) -> None:
    controller.script["dev"] += [view("dev", SessionState.QUEUED), ready()]
    result = run("--json", "start", "dev")
    assert json.loads(result.stdout)["endpoint"]["node"] == "c2"
    assert result.stderr == ""


def test_ssh_command_fits_this_users_ssh_configuration(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    assert run("start", "dev").stdout == "berth ssh dev\n"
    assert run("ssh-config", "--install").exit_code == 0
    assert run("start", "dev").stdout == "ssh dev.berth\n"


def test_a_session_that_runs_already_is_fine(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    result = run("start", "dev")
    assert (result.exit_code, result.stdout) == (0, "berth ssh dev\n")
    assert "already runs on c2" in result.stderr


def test_other_options_for_a_running_session_are_a_conflict(controller: ScriptedController) -> None:
    conflict = errors.ConflictError("dev is ready with other options", hint="`berth stop dev` first")
    controller.failures["POST /v1/sessions/dev/start"] = conflict
    result = run("start", "dev", "--mem=1G")
    assert result.exit_code == 5
    assert result.stderr == "berth: dev is ready with other options\n  hint: `berth stop dev` first\n"


def test_failure_says_why_and_shows_the_end_of_the_log(controller: ScriptedController) -> None:
    controller.script["dev"].append(view("dev", SessionState.FAILED, reason="out of memory"))
    controller.logs["dev"].append("".join(f"line {number}\n" for number in range(1, 9)))
    result = run("start", "dev")
    assert result.exit_code == 1
    assert "line 3" not in result.stderr
    assert "line 8" in result.stderr
    assert "berth: dev failed: out of memory" in result.stderr
    assert "`berth logs dev`" in result.stderr


def test_stopped_by_somebody_meanwhile(controller: ScriptedController) -> None:
    controller.script["dev"].append(view("dev", SessionState.STOPPED, reason="the job was cancelled outside Berth"))
    result = run("start", "dev")
    assert result.exit_code == 5
    assert "cancelled outside" in result.stderr


def test_timeout_leaves_it_starting(controller: ScriptedController) -> None:
    result = run("start", "dev", "--timeout", "0.05")
    assert result.exit_code == 8
    assert "the operation continues" in result.stderr
    assert [method for method, _, _ in controller.asked].count("POST") == 1


def test_a_controller_that_restarts_is_waited_for(controller: ScriptedController) -> None:
    starting = view("dev", SessionState.STARTING)
    controller.script["dev"] += [starting, errors.ControllerUnavailableError("restarting"), ready()]
    assert run("start", "dev").stdout == "berth ssh dev\n"


def test_a_controller_that_stays_away_is_given_up(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.cli.progress.OUTAGE_S", 0.01)
    controller.failures["GET /v1/sessions/dev"] = errors.ControllerUnavailableError("gone")
    assert run("start", "dev").exit_code == 7


def test_ctrl_c_on_a_terminal_leaves_it_starting(controller: ScriptedController) -> None:
    controller.script["dev"].append(view("dev", SessionState.QUEUED, reason="Priority"))
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "broker.cli", "start", "dev"], stdout=subprocess.PIPE, stderr=follower, cwd="."
    ) as process:
        os.close(follower)
        try:
            controller.wait_asked("GET", "/v1/sessions/dev?after&wait")
        finally:
            process.send_signal(signal.SIGINT)
        seen = _read_all(leader)
        assert process.wait(timeout=DEADLINE_S) == 130
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert "\r" in seen  # one line that changes
    assert "queued: Priority (jobs with a higher priority are waiting)" in plain(seen)
    assert "interrupted; dev is still starting" in plain(seen)
    assert "POST" not in {method for method, path, _ in controller.asked if path.endswith("/stop")}


def _read_all(terminal: int) -> str:
    """Everything until the other side is closed, which Linux reports as EIO."""
    seen = bytearray()
    try:
        while chunk := os.read(terminal, 4096):
            seen += chunk
    except OSError:
        pass
    finally:
        os.close(terminal)
    return seen.decode()
