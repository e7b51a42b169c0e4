"""`berth list --watch` and `berth show --watch`, in a terminal and in a pipe, over restarts of the controller."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pyte
import pytest

from broker.errors import ExitCode
from broker.schema.sessions import SessionState
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import run
from tests.fakes.controller import ready, view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fakes.controller import ScriptedController

BERTH = (sys.executable, "-m", "broker.cli")


@pytest.fixture(autouse=True)
def sessions(controller: ScriptedController) -> None:
    controller.sessions = {"dev": ready("dev"), "old": view("old")}


class Terminal:
    """A command in a terminal of 100 columns and 12 lines."""

    def __init__(self, *words: str) -> None:
        self._leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (12, 100))
        self.modes = termios.tcgetattr(follower)
        self._follower = follower
        self._screen = pyte.Screen(100, 12)
        self._stream = pyte.ByteStream(self._screen)
        environment = {name: value for name, value in os.environ.items() if name not in {"LINES", "COLUMNS"}}
        self.process = subprocess.Popen(
            [*BERTH, *words], env=environment, stdin=follower, stdout=follower, stderr=follower
        )
        os.set_blocking(self._leader, False)

    def until(self, shows: Callable[[list[str]], bool]) -> list[str]:
        """Return the lines of the screen once they satisfy `shows`."""
        deadline = time.monotonic() + DEADLINE_S
        while not shows(self.lines()):
            assert time.monotonic() < deadline, self.lines()
            time.sleep(0.02)
        return self.lines()

    def lines(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            self._stream.feed(os.read(self._leader, 65536))
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code: int = self.process.wait(DEADLINE_S)
        assert termios.tcgetattr(self._follower) == self.modes
        assert self._screen.cursor.hidden is False
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)
        os.close(self._follower)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def make(*words: str) -> Terminal:
        opened.append(Terminal(*words))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_the_list_is_drawn_again_in_place(controller: ScriptedController, terminal: Callable[..., Terminal]) -> None:
    shown = terminal("list", "--watch")
    first = shown.until(lambda lines: len(lines) == 3)
    assert [line.split()[:2] for line in first[1:]] == [["dev", "ready"], ["old", "stopped"]]
    controller.stream.change(view("dev", SessionState.STOPPING), view("new", SessionState.QUEUED), removed=["01old"])
    second = shown.until(lambda lines: "stopping" in "".join(lines))
    assert [line.split()[:2] for line in second[1:]] == [["dev", "stopping"], ["new", "queued"]]
    assert second[0].split() == first[0].split()
    assert shown.interrupt() == ExitCode.INTERRUPTED
    assert shown.until(lambda lines: "berth: interrupted" in lines)[1:3] == second[1:]


def test_a_list_longer_than_the_terminal_is_cut(
    controller: ScriptedController, terminal: Callable[..., Terminal]
) -> None:
    controller.sessions = {f"s{number:02}": view(f"s{number:02}") for number in range(30)}
    shown = terminal("list", "--watch")
    assert shown.until(lambda lines: len(lines) == 11)[-1] == "… 21 more lines"
    controller.stream.change(view("s00", SessionState.QUEUED))
    assert shown.until(lambda lines: "queued" in lines[1])[-1] == "… 21 more lines"


def test_the_page_of_a_session_follows_its_changes(
    controller: ScriptedController, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal("show", "old", "--watch")
    shown.until(lambda lines: lines[:2] == ["old", "  state      stopped"])
    controller.stream.change(view("old", SessionState.QUEUED, ahead=2), ready("dev", reason="of no concern"))
    shown.until(lambda lines: lines[1:2] == ["  state      queued; 2 jobs ahead"])
    controller.stream.change(removed=["01old"])
    assert shown.until(lambda lines: lines[-1] == "deleted")[0] == "old"
    assert shown.process.wait(DEADLINE_S) == 0


def test_a_restart_of_the_controller_is_shown_and_survived(
    controller: ScriptedController, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal("list", "--watch")
    shown.until(lambda lines: len(lines) == 3)
    controller.sessions["dev"] = view("dev", SessionState.STOPPED)
    controller.stream.end()
    shown.until(lambda lines: "the controller does not answer; trying again" in lines[-1])
    shown.until(lambda lines: len(lines) == 3 and lines[1].split()[1] == "stopped")
    assert controller.stream.begun.get() == "/v1/sessions/watch"
    assert controller.stream.begun.get() == "/v1/sessions/watch?since=b-0"


def in_pipe(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*BERTH, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupt(process: subprocess.Popen[str]) -> str:
    """End the command by Ctrl-C; return the rest of its messages."""
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == ExitCode.INTERRUPTED
    return messages


def test_a_pipe_gets_one_line_for_each_change(controller: ScriptedController) -> None:
    with in_pipe("list", "--watch", "--state", "ready,queued") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("dev: ready")
        controller.stream.change(view("old", SessionState.QUEUED))
        assert process.stdout.readline() == "old: queued\n"
        controller.stream.change(view("dev", SessionState.STOPPED), removed=["01old"])
        assert sorted(process.stdout.readline() for _ in range(2)) == ["dev: stopped\n", "old: deleted\n"]
        controller.sessions = {"dev": ready("dev")}
        controller.stream.end()
        assert process.stdout.readline().startswith("dev: ready")
        messages = interrupt(process).splitlines()
    lost = "berth: the controller does not answer; trying again"
    assert messages == [lost, "berth: connected to the controller again", "berth: interrupted"]


def test_json_is_one_object_for_each_change(controller: ScriptedController) -> None:
    with in_pipe("list", "dev", "--watch", "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert ([each["name"] for each in first["changed"]], first["removed"]) == (["dev"], [])
        controller.stream.change(view("old", SessionState.QUEUED))
        controller.stream.change(view("dev", SessionState.FAILED))
        assert json.loads(process.stdout.readline())["changed"][0]["state"] == "failed"
        controller.stream.change(removed=["01dev"])
        assert json.loads(process.stdout.readline()) == {"changed": [], "removed": ["01dev"]}
        interrupt(process)


def test_json_of_one_session_ends_with_its_deletion(controller: ScriptedController) -> None:
    with in_pipe("show", "dev", "--watch", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "ready"
        controller.stream.change(view("dev", SessionState.DELETING))
        assert json.loads(process.stdout.readline())["state"] == "deleting"
        controller.stream.change(removed=["01dev"])
        rest, messages = process.communicate(timeout=DEADLINE_S)
        assert (rest, messages, process.returncode) == ("", "", 0)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["list", "--watch", "--deleted"], ExitCode.USAGE, "--deleted cannot be combined with --watch"),
        (["list", "--watch", "-o", "name"], ExitCode.USAGE, "--output name cannot be combined with --watch"),
        (["list", "none", "--watch"], ExitCode.NOT_FOUND, "no session named none"),
        (["show", "none", "--watch"], ExitCode.NOT_FOUND, "no session named none"),
    ],
)
def test_a_watch_of_nothing_is_refused(words: list[str], code: ExitCode, message: str) -> None:
    result = run(*words)
    assert (result.exit_code, message in result.stderr) == (code, True)
