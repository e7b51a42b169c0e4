"""`berth exec --root`: whatever happens to the command or to us, the session comes back as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import pytest

from broker import errors
from broker.client.client import Client
from broker.schema.sessions import SessionState
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ScriptedController, operation, posted, ready, view

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.schema import sessions

IN_ROOT = ready(root=True, operation=operation("root", "done"))
COMMITTING = ready(root=True, operation=operation("commit-root"))
COMMITTED = ready(root=True, operation=operation("commit-root", "done", message="kept", undo="berth rollback dev 4"))


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    """A running session, and an `ssh` that notes its words and does what $SSH_DOES says."""
    with command_line(monkeypatch, tmp_path) as running:
        running.sessions["dev"] = ready()
        programs = tmp_path / "bin"
        programs.mkdir()
        ssh = programs / "ssh"
        ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/ssh.words\neval "$SSH_DOES"\n')
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setenv("SSH_DOES", "echo out; exit 0")
        yield running


def posts(controller: ScriptedController) -> list[str]:
    return [path.removeprefix("/v1/sessions/dev/") for path, _ in posted(controller)]


def into_root_mode() -> list[sessions.SessionView | errors.BerthError | None]:
    pending = operation("root")
    return [
        view("dev", SessionState.STOPPING, operation=pending),
        view("dev", SessionState.CHANGING, operation=pending, root=True),
        view("dev", SessionState.STARTING, root=True, operation=operation("root", "done")),
        IN_ROOT,
    ]


def back() -> list[sessions.SessionView | errors.BerthError | None]:
    done = operation("restart", "done")
    return [
        view("dev", SessionState.STOPPING, root=True, operation=operation("restart")),
        view("dev", SessionState.CHANGING, operation=operation("restart")),
        view("dev", SessionState.SUBMITTING, operation=done),
        ready(operation=done),
    ]


def stopped() -> list[sessions.SessionView | errors.BerthError | None]:
    return [view("dev", SessionState.STOPPING, root=True), view()]


def test_what_root_did_is_kept_and_the_session_comes_back(controller: ScriptedController, tmp_path: Path) -> None:
    controller.script["dev"] += [*into_root_mode(), COMMITTING, COMMITTED, *back()]
    result = run("exec", "--root", "--yes", "dev", "--", "apt-get", "install", "two words")
    assert result.exit_code == 0, result.output
    assert posts(controller) == ["root", "/v1/keys", "/v1/resolve", "/v1/connections", "root/commit", "restart"]
    assert not controller.script["dev"]
    lines = result.stderr.splitlines()
    assert lines[0] == (
        "dev: will start in root mode for this command; its programs end, and it is started again afterwards"
    )
    assert lines[-1] == "dev is ready again"
    assert {"kept", "to undo: berth rollback dev 4", "dev: stopping; then entering root mode"} <= set(lines)
    words = (tmp_path / "ssh.words").read_text().splitlines()
    assert "User=root" in words
    assert "HostKeyAlias=alice.dev.berth" in words
    assert words[-4:] == ["-T", "dev.berth", "--", "apt-get install 'two words'"]
    [asked] = [body for _, path, body in controller.asked if path == "/v1/resolve"]
    assert asked["root"] is True


def test_a_stopped_session_is_not_asked_about_and_left_stopped(controller: ScriptedController) -> None:
    controller.sessions["dev"] = view()
    controller.script["dev"] += [*into_root_mode()[1:], COMMITTED, *stopped()]
    result = run("exec", "--root", "dev", "true")
    assert result.exit_code == 0, result.output
    assert posts(controller)[-1] == "stop"
    assert result.stderr.splitlines()[-1] == "dev is stopped again"


def test_a_running_session_is_asked_about(controller: ScriptedController) -> None:
    result = run("exec", "--root", "dev", "true")
    assert result.exit_code == 2
    assert "nothing was run in dev: there is no terminal to ask at" in result.stderr
    assert posts(controller) == []
    checked = [body for _, path, body in controller.asked if path.endswith("/check")]
    assert [(body["restart"], body["root"]) for body in checked] == [(True, False), (False, True)], "both starts"


@pytest.mark.parametrize(
    ("code", "words", "says"),
    [
        (7, (), "the command ended with 7; its changes are discarded"),
        (255, (), "the connection was lost, or the command ended with 255; its changes are discarded"),
        (255, ("--keep",), "the connection was lost, or the command ended with 255; its changes are discarded"),
    ],
)
def test_nothing_is_kept_of_a_command_that_fails(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, code: int, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.setenv("SSH_DOES", f"exit {code}")
    # Where ssh has failed, the session has ended: it is started again, in normal mode.
    ending = [*stopped(), view("dev", SessionState.SUBMITTING), ready()] if code == 255 else back()
    controller.script["dev"] += [*into_root_mode(), *ending]
    result = run("exec", "--root", "--yes", *words, "dev", "false")
    assert result.exit_code == code
    assert says in result.stderr
    assert "root/commit" not in posts(controller)
    assert posts(controller)[-1] == ("start" if code == 255 else "restart")


def test_a_failure_is_kept_if_that_is_wanted(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_DOES", "exit 7")
    controller.script["dev"] += [*into_root_mode(), COMMITTED, *back()]
    assert run("exec", "--root", "--yes", "--keep", "dev", "false").exit_code == 7
    assert "root/commit" in posts(controller)


def test_what_could_not_be_kept(controller: ScriptedController) -> None:
    failure = operation("commit-root", "failed", reason="refused", message="no space left", hint="berth gc")
    controller.script["dev"] += [*into_root_mode(), COMMITTING, ready(root=True, operation=failure), *back()]
    result = run("exec", "--root", "--yes", "dev", "true")
    assert result.exit_code == 4
    assert result.stderr.endswith("dev is ready again\nberth: no space left\n  hint: berth gc\n")
    assert posts(controller)[-1] == "restart"


def test_refused_root_mode_leaves_the_session_alone(controller: ScriptedController) -> None:
    """It may be in root mode for another `berth exec --root` of the same user."""
    controller.failures["POST /v1/sessions/dev/root"] = errors.ConflictError("dev is in root mode already")
    result = run("exec", "--root", "--yes", "dev", "true")
    assert result.exit_code == 5
    assert posts(controller) == ["root"]


@pytest.mark.parametrize("there", [ready(root=True), view("dev", SessionState.STOPPING, operation=operation("root"))])
def test_one_command_at_a_time(controller: ScriptedController, there: sessions.SessionView) -> None:
    controller.sessions["dev"] = there
    result = run("exec", "--root", "--yes", "dev", "true")
    assert result.exit_code == 5
    assert "`berth stop dev` ends root mode" in result.stderr
    assert posts(controller) == []


def test_root_mode_that_failed_is_undone_by_the_controller(controller: ScriptedController) -> None:
    failure = operation("root", "failed", reason="refused", message="no subordinate ids", hint="ask for some")
    controller.script["dev"] += [
        into_root_mode()[0],
        view("dev", SessionState.SUBMITTING, operation=failure),
        ready(operation=failure),
    ]
    result = run("exec", "--root", "--yes", "dev", "true")
    assert result.exit_code == 4
    assert "berth: no subordinate ids\n  hint: ask for some" in result.stderr
    assert posts(controller) == ["root"]


def test_stopped_by_somebody_on_the_way(controller: ScriptedController) -> None:
    controller.script["dev"] += [into_root_mode()[0], view(operation=operation("root", "done")), *back()[2:]]
    result = run("exec", "--root", "--yes", "dev", "true")
    assert result.exit_code == 5
    assert "nothing was run" in result.stderr


def test_a_session_that_cannot_be_brought_back_says_how_to(controller: ScriptedController) -> None:
    controller.script["dev"] += [*into_root_mode(), COMMITTED]
    for call in ("restart", "stop"):
        controller.failures[f"POST /v1/sessions/dev/{call}"] = errors.SlurmUnavailableError("Slurm does not answer")
    result = run("exec", "--root", "--yes", "dev", "true")
    assert result.exit_code == 6
    assert "dev could not leave root mode: Slurm does not answer" in result.stderr
    assert "`berth stop dev` ends root mode" in result.stderr


def test_json_says_nothing(controller: ScriptedController) -> None:
    controller.script["dev"] += [*into_root_mode(), COMMITTED, *back()]
    result = run("--json", "exec", "--root", "--yes", "dev", "true")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_interrupted_nothing_is_kept_and_the_session_comes_back(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: signal.Signals
) -> None:
    """As by a closed terminal, which does not show our messages, either."""
    started = tmp_path / "started"
    os.mkfifo(started)
    monkeypatch.setenv("SSH_DOES", f"echo > {started}; exec sleep 60")
    controller.script["dev"] += [*into_root_mode(), *back()]
    with subprocess.Popen(
        [sys.executable, "-m", "broker.cli", "exec", "--root", "--yes", "dev", "true"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        started.read_text()
        if ending is signal.SIGHUP:
            process.stderr.close()
        process.send_signal(ending)
        said = "" if process.stderr.closed else process.stderr.read()
        code = process.wait(DEADLINE_S)
    if ending is not signal.SIGHUP:
        assert code == 130
        assert said.endswith("dev is ready again\nberth: interrupted; the command's changes are discarded\n")
    assert "root/commit" not in posts(controller)
    assert posts(controller)[-1] == "restart"
    assert not controller.script["dev"]


def test_ctrl_c_while_it_is_kept_waits_for_that(controller: ScriptedController) -> None:
    controller.script["dev"] += [*into_root_mode(), COMMITTING]
    with subprocess.Popen(
        [sys.executable, "-m", "broker.cli", "exec", "--root", "--yes", "dev", "true"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        controller.wait_asked("POST", "/v1/sessions/dev/root/commit")
        looks = sum(path == "/v1/sessions/dev?after&wait" for _, path, _ in controller.asked)
        controller.wait_asked("GET", "/v1/sessions/dev?after&wait", max(looks, len(into_root_mode())))
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "are being saved" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)  # and again: now we are to leave at once
        controller.script["dev"] += back()
        assert "interrupted while the command's changes were being saved" in process.stderr.read()
        assert process.wait(DEADLINE_S) == 130
    assert posts(controller)[-1] == "restart"


@pytest.mark.parametrize("call", ["root", "commit_root"])
def test_ctrl_c_while_the_controller_answers(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It answers after seconds; what it was asked for is under way by then."""
    really = getattr(Client, call)

    def interrupted(client: Client, name: str) -> NoReturn:
        really(client, name)
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, call, interrupted)
    stopping, *on_the_way = into_root_mode()
    committing = [COMMITTING, COMMITTED] if call == "commit_root" else []
    ending = back() if committing else [*stopped(), view("dev", SessionState.SUBMITTING), ready()]
    controller.script["dev"] += [stopping, *(on_the_way if committing else []), *committing, *ending]
    result = run("exec", "--root", "--yes", "dev", "true")
    assert posts(controller)[-2:] == (["root/commit", "restart"] if committing else ["stop", "start"])
    if committing:
        assert result.exit_code == 0
        assert "are being saved; press Ctrl-C again to interrupt\n" in result.stderr
        assert "\nkept\n" in result.stderr
    else:
        assert result.exit_code == 130
        assert result.stderr.endswith("dev is ready again\nberth: interrupted; nothing was run in dev\n")


def test_ctrl_c_before_it_was_asked_to_keep_anything(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "commit_root", interrupted)
    controller.script["dev"] += [*into_root_mode(), *back()]
    result = run("exec", "--root", "--yes", "dev", "true")
    assert result.exit_code == 130
    assert result.stderr.endswith("berth: interrupted; the command's changes are discarded\n")


def test_no_ssh(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> None:
    controller.script["dev"] += [*into_root_mode(), *back()]
    monkeypatch.setattr("broker.cli.commands.exec_root.ssh_command", lambda *_, **__: (["/nowhere/ssh"], None))
    result = run("exec", "--root", "--yes", "dev", "true")
    assert result.exit_code == 1
    assert "install OpenSSH's client" in result.stderr
    assert posts(controller)[-1] == "restart"


@pytest.mark.parametrize("option", ["--keep", "--yes"])
def test_options_that_only_go_with_root(controller: ScriptedController, option: str) -> None:
    assert run("exec", option, "dev", "true").exit_code == 2
    assert controller.asked == []
