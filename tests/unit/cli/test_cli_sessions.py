"""`berth list`, `show`, `stop`, `delete`, `logs` and `events`, against a controller that plays a script."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from typing import Any

import pytest

from broker import errors
from broker.cli import prompts
from broker.schema.connections import NOT_FOLLOWED, ConnectionView
from broker.schema.sessions import SessionList, SessionState
from broker.schema.site import EventView
from broker.text.log import added_text, without_noise
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import run
from tests.fakes.controller import CREATED, ScriptedController, posted, ready, view


def test_list_shows_where_and_why(controller: ScriptedController) -> None:
    ends = time.time() + 2 * 3600 + 30
    controller.sessions = {
        "dev": ready("dev", options=["--gres=gpu:intel:1", "--mem=8G"], ends_at=ends),
        "old": view("old"),
        "big": view("big", SessionState.QUEUED, reason="Resources", job_id=9),
    }
    result = run("list")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0].split() == ["NAME", "STATE", "PROFILE", "NODE/REASON", "JOB", "GPU", "TIME", "LEFT"]
    assert lines[1].split() == ["dev", "ready", "base@1", "c2", "7", "gpu:intel:1", "2", "h"]
    assert lines[2].split() == ["old", "stopped", "base@1"]
    assert lines[3].split() == ["big", "queued", "base@1", "Resources", "9"]


def test_list_without_sessions_says_how_to_begin_and_prints_no_data(controller: ScriptedController) -> None:
    assert controller.sessions == {}
    result = run("list")
    assert result.stdout == ""
    assert "berth start" in result.stderr


@pytest.mark.parametrize("words", [("--json", "list"), ("list", "--json")])
def test_json_is_accepted_before_and_after_the_command(controller: ScriptedController, words: tuple[str, ...]) -> None:
    controller.sessions = {"dev": ready()}
    assert SessionList.model_validate(json.loads(run(*words).stdout)).sessions == [ready()]


def test_what_slurm_says_cannot_drive_the_terminal(controller: ScriptedController) -> None:
    controller.sessions = {"dev": view("dev", SessionState.FAILED, reason="\x1b]0;owned\x07\u202e\x9b2J")}
    for words in (("list",), ("show", "dev"), ("show", "dev", "--json")):
        out = run(*words).stdout
        assert "owned" in out
        assert all(char.isprintable() or char == "\n" for char in out), words


def test_stale_answers_are_marked(controller: ScriptedController) -> None:
    since = time.time() - 60
    controller.sessions = {"dev": ready("dev", stale_since=since)}
    listed = run("list")
    assert "ready?" in listed.stdout
    assert f"as of {time.strftime('%H:%M', time.localtime(since))}" in listed.stderr
    assert "Slurm does not answer" in run("show", "dev").stdout


def test_show_tells_how_the_last_job_ended(controller: ScriptedController) -> None:
    controller.sessions = {
        "dev": view("dev", SessionState.FAILED, reason="out of memory", outcome="OUT_OF_MEMORY", ended_at=CREATED + 5)
    }
    out = run("show", "dev").stdout
    assert "OUT_OF_MEMORY" in out
    assert "ssh dev.berth" in out


def test_a_missing_session_has_its_own_exit_code(controller: ScriptedController) -> None:
    assert controller.sessions == {}
    result = run("show", "nope")
    assert result.exit_code == 3
    assert result.stderr == "berth: you have no session named nope\n"


def test_errors_as_json(controller: ScriptedController) -> None:
    controller.failures["GET /v1/sessions/dev"] = errors.SlurmUnavailableError("no answer", hint="wait")
    result = run("show", "dev", "--json")
    assert result.stdout == ""
    assert json.loads(result.stderr) == {
        "error": {"reason": "slurm-unavailable", "message": "no answer", "hint": "wait", "exit_code": 6}
    }
    assert result.exit_code == 6


@pytest.mark.parametrize(
    ("name", "near"), [("dev.berth", "dev"), ("My_Dev", "my-dev"), ("Über", None), ("a" * 40, None)]
)
def test_wrong_names_are_refused_before_anything_is_asked(
    controller: ScriptedController, name: str, near: str | None
) -> None:
    for command in ("show", "stop", "logs", "events", "start"):
        result = run(command, name)
        assert result.exit_code == 2
        assert "small letters" in result.stderr
        assert (f"try '{near}'" in result.stderr) == (near is not None)
    assert controller.asked == []


def test_stop_waits_until_the_job_has_ended(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    stopping = view("dev", SessionState.STOPPING, reason="waiting for the job to end")
    controller.script["dev"] += [stopping, stopping, view("dev")]
    result = run("stop", "dev")
    assert result.exit_code == 0
    assert not controller.script["dev"]
    assert result.stderr.splitlines() == [
        "dev: stopping: waiting for the job to end",
        "dev is stopped; its files are kept",
    ]
    assert result.stdout == ""


def test_stop_no_wait_asks_once(controller: ScriptedController) -> None:
    controller.sessions["dev"] = view("dev", SessionState.STOPPING)
    result = run("stop", "dev", "--no-wait", "--json")
    assert json.loads(result.stdout)["state"] == "stopping"
    assert result.stderr == ""
    assert [each[:2] for each in controller.asked] == [("POST", "/v1/sessions/dev/stop")]


def test_stop_gives_up_after_its_timeout_and_says_that_it_goes_on(controller: ScriptedController) -> None:
    controller.sessions["dev"] = view("dev", SessionState.STOPPING)
    result = run("stop", "dev", "--timeout", "0.05")
    assert result.exit_code == 8
    assert "the operation continues" in result.stderr


def test_delete_needs_a_terminal_or_yes(controller: ScriptedController) -> None:
    controller.sessions["dev"] = view()
    result = run("delete", "dev")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert "dev" in controller.sessions


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_delete_asks_at_a_terminal(controller: ScriptedController, answer: bytes, code: int) -> None:
    controller.sessions["dev"] = view()
    controller.script["dev"] += [view("dev", SessionState.DELETING), None]
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "broker.cli", "delete", "dev"], stdin=follower, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(follower)
        os.write(leader, answer)
        assert process.wait(DEADLINE_S) == code
        assert process.stderr is not None
        assert "Delete dev and all its files?" in process.stderr.read()
    os.close(leader)
    assert ("dev" in controller.sessions) == (code == 1)


def test_delete_waits_until_it_is_gone(controller: ScriptedController) -> None:
    controller.sessions["dev"] = view()
    controller.script["dev"] += [view("dev", SessionState.DELETING), None]
    result = run("delete", "dev", "--yes")
    assert (result.exit_code, controller.sessions) == (0, {})
    assert result.stderr.splitlines()[-1] == "dev is deleted permanently"


def test_a_session_with_a_job_is_not_deleted(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    result = run("delete", "dev", "--yes")
    assert result.exit_code == 5
    assert "`berth stop dev`" in result.stderr
    assert "DELETE" not in {method for method, _, _ in controller.asked}


def test_logs_end(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    controller.logs["dev"].append("one\ntwo\n\x1b[31mthree\n")
    assert run("logs", "dev").stdout == "one\ntwo\n\\x1b[31mthree\n"
    assert run("logs", "dev", "-n", "1").stdout == "\\x1b[31mthree\n"
    assert run("logs", "dev", "-n", "0").stdout == ""


def test_logs_follow_until_the_job_has_ended(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.cli.commands.logs.FOLLOW_INTERVAL_S", 0)
    controller.sessions["dev"] = view("dev", SessionState.STOPPED)
    controller.logs["dev"] += ["one\n", "one\ntwo\n"]
    assert run("logs", "dev", "--follow").stdout == "one\ntwo\n"


@pytest.mark.parametrize(
    ("seen", "text", "new"),
    [
        ("ab", "abc", "c"),
        ("ab", "ab", ""),
        ("", "ab", "ab"),
        ("0123" + "x" * 2000, "x" * 1500 + "new", "new"),  # the tail moved on
        ("old", "begun anew", "begun anew"),
    ],
)
def test_what_a_log_gained(seen: str, text: str, new: str) -> None:
    assert added_text(seen, text) == new


def test_events(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    controller.events = [EventView(at=CREATED, actor="alice", session="dev", action="start", detail="base@1")]
    assert run("events", "dev").stdout.splitlines()[1].split()[-4:] == ["dev", "alice", "start", "base@1"]
    assert json.loads(run("events", "--json").stdout)["events"][0]["action"] == "start"


def test_events_without_connections(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    run("events", "dev", "--no-connections")
    assert ("GET", "/v1/sessions/dev/events?connections", None) in controller.asked


def test_who_is_connected(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    assert "Berth knows of no open connections to dev." in run("who", "dev").stderr
    usual: dict[str, Any] = {"session": "dev", "user": "alice", "generation": "1.0", "began_at": CREATED}
    usual |= {"seen_at": CREATED, "received": 2048}
    key = "SHA256:" + "A" * 43
    controller.connections = [
        ConnectionView(
            id="1", peer="192.0.2.7:5022", fingerprint=key, gateway="gw1", ended_at=None, sent=5, end="", **usual
        ),
        ConnectionView(
            id="2", peer="", fingerprint="", gateway="", ended_at=CREATED + 7500, sent=0, end="client lost", **usual
        ),
        ConnectionView(
            id="3", peer="", fingerprint="", gateway="", ended_at=CREATED, sent=0, end=NOT_FOLLOWED, **usual
        ),
    ]
    shown = run("who", "dev").stdout.splitlines()
    assert shown[0].split() == ["WHO", "ROLE", "FROM", "THROUGH", "KEY", "SINCE", "TIME", "SENT", "RECEIVED"]
    assert shown[1].split()[:5] == ["alice", "-", "192.0.2.7:5022", "gw1", key]
    assert shown[1].endswith("5 B   2.0 KiB")
    shown = run("who", "dev", "--all").stdout.splitlines()
    assert ("GET", "/v1/sessions/dev/connections?ended", None) in controller.asked
    assert shown[2].split()[1:6] == ["-", "login", "node", "-", "-"]
    assert shown[2].endswith("client lost")
    assert shown[3].split()[-5:] == ["-", "-", "-", "not", "followed"], "neither its time nor its bytes are known"
    assert [each["id"] for each in json.loads(run("who", "dev", "--json").stdout)["connections"]] == ["1", "2", "3"]


def test_a_controller_that_is_not_there(controller: ScriptedController) -> None:
    controller.socket.unlink()
    result = run("list")
    assert result.exit_code == 7
    assert "berth doctor" in result.stderr


def test_end_of_a_session_in_use_is_asked_for_on_a_terminal(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "is_terminal", lambda _: True)
    controller.sessions["dev"] = ready()
    controller.terminals = 2
    result = run("stop", "dev", input="n\n")
    assert "dev is in use (2 open terminals). Stop dev?" in result.stderr
    assert result.exit_code != 0
    assert posted(controller) == []
    controller.script["dev"].extend([view("dev")])
    assert run("stop", "dev", "--yes").exit_code == 0
    assert posted(controller)[0][0] == "/v1/sessions/dev/stop"


@pytest.mark.parametrize(("terminal", "terminals"), [(True, 0), (True, None), (False, 2)])
def test_stop_asks_nothing_without_a_login_or_a_terminal(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, terminal: bool, terminals: int | None
) -> None:
    monkeypatch.setattr(prompts, "is_terminal", lambda _: terminal)
    controller.sessions["dev"] = ready()
    controller.terminals = terminals
    result = run("stop", "dev", "--no-wait")
    assert result.exit_code == 0
    assert "in use" not in result.stderr
    assert [path for path, _ in posted(controller)] == ["/v1/sessions/dev/stop"]


def test_stop_of_several_sessions_asks_once(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "is_terminal", lambda _: True)
    controller.sessions |= {name: ready(name) for name in ("dev", "ci")}
    controller.terminals = 1
    result = run("stop", "dev", "ci", "nosuch", "--no-wait", input="y\n")
    assert "dev is in use (1 open terminal); ci is in use (1 open terminal). Stop dev, ci, nosuch?" in result.stderr
    assert [path for path, _ in posted(controller)][:2] == ["/v1/sessions/dev/stop", "/v1/sessions/ci/stop"]


def test_a_stop_at_a_time_asks_nothing(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "is_terminal", lambda _: True)
    controller.sessions["dev"] = ready()
    controller.terminals = 1
    assert "in use" not in run("stop", "dev", "--at", "4h").stderr


def test_who_counts_terminals(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    controller.terminals = 1
    assert "dev has 1 open terminal." in run("who", "dev").stderr
    assert json.loads(run("who", "dev", "--json").stdout) == {"connections": [], "guests": [], "terminals": 1}


def test_log_has_no_lines_that_only_look_like_faults() -> None:
    noise = "Attempt to write login records by non-root user (aborting)"
    text = f"one\n{noise}\r\nsshd-session[7]: {noise}\ntwo\n\nAttempt to read\n{noise}"
    assert without_noise(text) == "one\ntwo\n\nAttempt to read\n"
