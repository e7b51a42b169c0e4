"""Every command as a process: locales, encodings, widths, terminals, full disks, closed streams and readers that leave.

The in-process form, with many more command lines, is `tests/unit/cli/test_cli_fuzz.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.cli.command_table import COMMANDS
from broker.errors import ExitCode
from tests.deadlines import DEADLINE_S
from tests.fakes.controller import ScriptedController
from tests.fakes.random_commands import SERVICES, command_lines, fill, find_command, paths

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = "processes"
SOAK_ROUNDS = 15
NO_RUN = ["--help", "--nosuch", "one two three four"]
"""Words with which a service ends at once."""

LOCALES = (
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "C"},
    {"LC_ALL": "C.UTF-8"},
    {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "nosuch_LOCALE"},
)
STREAMS = ("pipe", "pipe", "terminal", "full", "closed", "left")
HOMES = ("", "", "", "", "nosuch", "config.yaml", "unwritable")
"""Homes of the command: mostly the usual one, else one that is missing, is a file, or cannot be written."""
SSH_FAILED = 255
"""The exit code of ssh, which `berth ssh` and `exec` become."""


@dataclass(frozen=True)
class Stream:
    """A standard stream's file, and the descriptor from which the test reads what was written to it."""

    file: int
    reader: int | None = None


def open_stream(kind: str, width: int) -> Stream:
    """Open a stream: a pipe, a terminal, a full disk, or a pipe whose reader has left."""
    if kind == "full":
        return Stream(os.open("/dev/full", os.O_WRONLY))
    if kind == "terminal":
        near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        return Stream(far, near)
    reader, writer = os.pipe()
    if kind == "left":
        os.close(reader)
        return Stream(writer)
    return Stream(writer, reader)


@dataclass
class Ended:
    """A command's exit code and the text on both streams."""

    code: int
    text: str


def run(words: list[str], kinds: dict[str, str], width: int, environment: dict[str, str], home: Path) -> Ended:
    """Run one command line as a process to its end."""
    opened = {name: open_stream("pipe" if kind == "closed" else kind, width) for name, kind in kinds.items()}
    closed = "".join(f" {number}>&-" for number, name in ((1, "stdout"), (2, "stderr")) if kinds[name] == "closed")
    argv = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "broker.cli", *words]
    process = subprocess.Popen(
        [os.fsencode(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=opened["stdout"].file,
        stderr=opened["stderr"].file,
        env=environment,
        cwd=home,
    )
    for stream in opened.values():
        os.close(stream.file)
    text = b"".join(_read([stream.reader for stream in opened.values() if stream.reader is not None]))
    return Ended(process.wait(DEADLINE_S), text.decode(errors="replace"))


def _read(readers: list[int]) -> Iterator[bytes]:
    """Yield what is written until all writers have left, and close the readers."""
    deadline = time.monotonic() + DEADLINE_S
    while readers:
        ready, _, _ = select.select(readers, [], [], max(deadline - time.monotonic(), 0))
        assert ready, "the command does not end"
        for reader in ready:
            content = b""
            with contextlib.suppress(OSError):  # of a terminal without a program
                content = os.read(reader, 65536)
            yield content
            if not content:
                os.close(reader)
                readers.remove(reader)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose configuration names a scripted controller, and that has no programs."""
    with ScriptedController() as controller:
        fill(controller)
        stores = f"profiles:\n  stores: [{tmp_path / 'store'}]\n"
        (tmp_path / "config.yaml").write_text(f"runtime_dir: {controller.directory}\n{stores}", encoding="utf-8")
        (tmp_path / "unwritable").symlink_to("/proc")  # also for root
        yield tmp_path


@pytest.mark.parametrize("rounds", [1, pytest.param(SOAK_ROUNDS, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_process_ends_in_a_fault(home: Path, name: str, rounds: int) -> None:
    chance = random.Random(f"{SEED} {name} {rounds}")  # noqa: S311 - the same in each run
    for words, command in paths(find_command(name), name):
        for _ in range(rounds):
            width = chance.randint(20, 400)
            line = [name, *chance.choice(NO_RUN).split()] if name in SERVICES else command_lines(command, words, chance)
            kinds = {"stdout": chance.choice(STREAMS), "stderr": chance.choice(STREAMS)}
            environment = {
                "HOME": str(home / chance.choice(HOMES)),
                "PATH": str(home),
                "PYTHONPATH": str(Path(__file__).parents[3]),
                "BERTH_CONFIG": str(home / "config.yaml"),
                "TERM": chance.choice(["dumb", "xterm-256color", "nosuch"]),
                **chance.choice(LOCALES),
                **chance.choice(({}, {"NO_COLOR": "1"}, {"COLUMNS": str(width)}, {"COLUMNS": "x"})),
            }
            ended = run(line, kinds, width, environment, home)
            about = (line, kinds, environment, ended)
            assert ended.code in {*ExitCode, SSH_FAILED}, about
            assert "Traceback" not in ended.text, about
            assert "internal error" not in ended.text, about
            assert "Exception ignored" not in ended.text, about
            assert not (home / ".local/state/berth/traceback.txt").exists(), about
