"""Lines from before `berth-show` stay private when tmux moves the lines of its history, with a real tmux."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests.component.job.guest_scene import CANARY, SHOW, Scene
from tests.deadlines import DEADLINE_S
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


class Program:
    """A guest's program: it takes all that the writer of the shown terminal sends."""

    def __init__(self, scene: Scene) -> None:
        [path] = (scene.session.node / "shown").glob("*.sock")
        self._scene = scene
        self._connection = socket.socket(socket.AF_UNIX)
        folder = os.open(path.parent, os.O_RDONLY)
        self._connection.connect(f"/proc/self/fd/{folder}/{path.name}")  # the path itself may be too long
        os.close(folder)
        self._connection.settimeout(0.1)
        self._connection.sendall(b"bob\n")
        self.sent = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def history(self) -> list[str]:
        frames = [json.loads(line) for line in self.sent.split(b"\n")[:-1]]
        return [line.strip() for frame in frames for line in frame["history"]]

    def read_until(self, text: str) -> None:
        """Read until a screen has this text; the test fails if it does not come."""
        limit = time.monotonic() + DEADLINE_S
        rest = b""
        while True:
            assert time.monotonic() < limit, f"no {text!r} in {self.sent[-2000:]!r}"
            with contextlib.suppress(TimeoutError):
                piece = self._connection.recv(1 << 18)
                self.sent += piece
                *lines, rest = (rest + piece).split(b"\n")
                if any(text in row for line in lines for row in json.loads(line)["rows"]):
                    return

    def say(self, word: str) -> None:
        """Let alice's terminal show another word, and read until it has come."""
        self._scene.type(f"echo {word}-$((40 + 2))")
        self.read_until(f"{word}-42")


def show_after(scene: Scene, private: int, then: str) -> None:
    """Let alice show her terminal after so many private lines, and what `then` prints."""
    lines = f"for i in $(seq {private}); do printf '{CANARY}-%034d\\n' $i; done"
    scene.type(f"{SHOW} --stop", f"{lines}; {then}; {SHOW}")
    wait_for(lambda: "from now on" in scene.tmux("capture-pane -p -t main"), what="the second show")


@pytest.fixture
def private(scene: Scene) -> Iterator[Scene]:
    """Alice has shown her terminal after 500 private lines, and 60 others that may be seen."""
    show_after(scene, 500, "for i in $(seq 60); do echo open-$i; done")
    yield scene
    resize(scene, 80, 24)


def resize(scene: Scene, columns: int, lines: int) -> None:
    scene.tmux(f"resize-window -t main -x {columns} -y {lines}")


def test_larger_screen_takes_lines_out_of_the_history(private: Scene) -> None:
    with Program(private) as bob:
        bob.say("one")
        resize(private, 80, 50)
        bob.say("two")
        resize(private, 80, 24)
        bob.say("three")
        private.type("for i in $(seq 70); do echo new-$i; done")
        bob.read_until("new-70")
    assert CANARY.encode() not in bob.sent
    assert "new-1" in bob.history, "what leaves the screen later is sent"


def test_narrower_screen_wraps_the_lines_of_the_history(private: Scene) -> None:
    with Program(private) as bob:
        bob.say("one")
        resize(private, 40, 24)
        bob.say("two")
        with Program(private) as carol:
            carol.say("three")
    assert CANARY.encode() not in bob.sent + carol.sent


@pytest.mark.parametrize(("columns", "lines"), [(40, 24), (80, 50)])
def test_first_guest_after_a_change_of_size(private: Scene, columns: int, lines: int) -> None:
    resize(private, columns, lines)
    with Program(private) as bob:
        bob.say("one")
        private.type("for i in $(seq 70); do echo new-$i; done")
        bob.read_until("new-70")
    assert CANARY.encode() not in bob.sent
    assert "new-1" in bob.history


def test_end_of_an_alternate_screen_after_a_change_of_size(private: Scene) -> None:
    with Program(private) as bob:
        private.type(r"printf '\033[?1049h\033[Hed%s' itor; read; printf '\033[?1049l'")
        bob.read_until("editor")
        resize(private, 40, 50)
        private.type("", "")
        bob.say("one")
    assert CANARY.encode() not in bob.sent


def test_history_that_reaches_its_limit(private: Scene) -> None:
    with Program(private) as bob:
        for part in range(1, 4):
            private.type(f"for i in $(seq 700); do echo new-{part}-$i; done")
            bob.read_until(f"new-{part}-700")
        with Program(private) as carol:
            carol.say("one")
    assert CANARY.encode() not in bob.sent + carol.sent
    assert "new-1-1" in bob.history
    assert "new-3-600" in carol.history


def test_history_that_falls_between_two_looks_near_its_limit(scene: Scene) -> None:
    """The size is as before: only the number of lines could be mistaken for tmux's trim."""
    show_after(scene, 1950, "clear")
    with Program(scene) as bob:
        bob.say("one")
        scene.tmux("resize-window -t main -y 50 \\; resize-window -t main -y 24")
        bob.say("two")
    assert not any(CANARY in line for line in bob.history)
