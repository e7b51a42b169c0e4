"""All commands with random arguments, encodings, widths and broken outputs: no fault of Berth reaches the user.

The controller is the scripted one. Programs that a command would become or start are replaced.
"""

from __future__ import annotations

import errno
import io
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from broker import cli
from broker.cli.app import berth
from broker.cli.command_table import COMMANDS
from broker.errors import ExitCode
from broker.schema.site import RebuildReport
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import view
from tests.fakes.random_commands import SERVICES, TEXT, command_lines, fill, find_command, paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakes.controller import ScriptedController

ROUNDS = 12
"""Command lines of each command; the soak form has SOAK_ROUNDS others."""
SOAK_ROUNDS = 300
ENCODINGS = ("utf-8", "latin-1", "ascii")


class Sink(io.RawIOBase):
    """A standard stream: a file, a terminal, a full disk, or a pipe without a reader."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.content = b""

    def isatty(self) -> bool:
        return self.kind == "terminal"

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        del buffer
        return 0

    def write(self, content: object, /) -> int:
        if self.kind in {"full", "closed"}:
            number = errno.ENOSPC if self.kind == "full" else errno.EPIPE
            raise OSError(number, os.strerror(number))
        assert isinstance(content, (bytes, bytearray, memoryview))
        self.content += bytes(content)
        return len(content)


def no_program(*_: object, **__: object) -> NoReturn:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", "program")


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with command_line(monkeypatch, tmp_path) as running:
        fill(running)
        yield running


def run_with(line: list[str], encoding: str, kinds: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Run a command line with these standard streams; return the exit code and the text on stderr."""
    sinks = {name: Sink(kind) for name, kind in kinds.items()}
    streams = {name: io.TextIOWrapper(_buffered(sink, name), encoding=encoding) for name, sink in sinks.items()}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    try:
        with pytest.raises(SystemExit) as ended:
            berth.main(line)
        return int(ended.value.code or 0), sinks["stderr"].content.decode(encoding)
    finally:
        for name, stream in streams.items():
            sinks[name].kind = "file"  # so that what is left can be written
            monkeypatch.setattr(sys, name, getattr(sys, f"__{name}__"))
            stream.close()


def _buffered(sink: Sink, name: str) -> io.BufferedReader | io.BufferedWriter:
    return io.BufferedReader(sink) if name == "stdin" else io.BufferedWriter(sink)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of click, if it refuses a later argument
@pytest.mark.parametrize("rounds", [ROUNDS, pytest.param(SOAK_ROUNDS, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in SERVICES])
def test_no_input_and_no_output_is_a_fault(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, rounds: int
) -> None:
    for replaced in ("os.execvp", "os.execve", "subprocess.Popen"):
        monkeypatch.setattr(replaced, no_program)
    chance = random.Random(name if rounds == ROUNDS else f"{name} soak")  # noqa: S311 - the same in each run
    before = dict(controller.sessions)
    for words, command in paths(find_command(name), name):
        for _ in range(rounds):
            controller.sessions = dict(before)
            monkeypatch.setenv("COLUMNS", str(chance.choice([20, 40, 80, 132, 400, chance.randint(20, 400)])))
            monkeypatch.setenv("TERM", chance.choice(["dumb", "xterm"]))
            monkeypatch.setenv("NO_COLOR", chance.choice(["", "1"]))
            line = command_lines(command, words, chance)
            kinds = {
                "stdin": chance.choice(["file", "terminal"]),
                "stdout": chance.choice(["file", "file", "terminal", "full", "closed"]),
                "stderr": chance.choice(["file", "file", "terminal", "full"]),
            }
            encoding = chance.choice(ENCODINGS)
            code, said = run_with(line, encoding, kinds, monkeypatch)
            assert code in set(ExitCode), (line, encoding, kinds, said)
            assert "internal error" not in said, (line, encoding, kinds, said)
            assert "Traceback" not in said, (line, encoding, kinds, said)
            assert not (tmp_path / ".local/state/berth/traceback.txt").exists(), (line, encoding, kinds)


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("list >/dev/full", ExitCode.FAILED, "berth: cannot write the result: No space left on device"),
        ("--help >/dev/full", ExitCode.FAILED, "berth: cannot write the result: No space left on device"),
        ("list >&-", ExitCode.OK, ""),
        ("stop nosuch 2>/dev/full", ExitCode.NOT_FOUND, ""),
        ("stop nosuch <&- >&- 2>&-", ExitCode.NOT_FOUND, ""),
        ("PYTHONIOENCODING=latin-1 explain dev", ExitCode.OK, ""),
    ],
)
def test_the_outputs_of_a_process(controller: ScriptedController, line: str, code: int, says: str) -> None:
    controller.sessions["dev"] = view(reason=TEXT, outcome="OUT_OF_MEMORY")
    variable, equals, _ = line.partition(" ")[0].partition("=")
    settings = line.partition(" ")[0] if equals and variable.isupper() else ""
    command = f"{settings} {sys.executable} -m broker.cli {line.removeprefix(settings)}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == code
    assert done.stderr.decode().startswith(says)
    assert "Traceback" not in done.stderr.decode()
    assert "internal error" not in done.stderr.decode()


@pytest.mark.parametrize(
    "words",
    [
        ("login", "--hours", "1000"),
        ("login", "--hours", "nan"),
        ("ca", "retire", "host", "x" * 65),
        ("key", "remove", "\udc80"),
        ("logout", "\x1b[2J"),
        ("connect", "x" * 256),
        ("start", "new", "--keep", "/" + "x" * 1024),
        ("start", "new", "--keep", "/\udc80"),
        ("set", "dev", "--connect-wait", "25h"),
        ("stop", "dev", "--at", "1960-01-01"),
    ],
)
def test_a_value_that_the_api_would_refuse_is_refused_at_once(
    controller: ScriptedController, words: tuple[str, ...]
) -> None:
    result = run(*words)
    assert result.exit_code == ExitCode.USAGE
    assert "--help` shows" in result.stderr
    assert controller.asked == []


def test_a_response_of_another_version_is_no_fault(controller: ScriptedController) -> None:
    controller.answers["GET /v1/sessions/dev/jobs"] = RebuildReport(restored=[])
    result = run("history", "dev")
    assert result.exit_code == ExitCode.FAILED
    assert result.stderr.startswith("berth: the controller's response is invalid\n  hint: ")


def test_all_output_is_written_in_one_module() -> None:
    sources = (Path(cli.__file__).parent).rglob("*.py")
    writers = re.compile(r"click\.(echo|secho)\(|\bprint\(|sys\.std(out|err)\.(write|buffer)")
    found = {path.name for path in sources if writers.search(path.read_text(encoding="utf-8"))}
    assert found == {"output.py"}


def test_an_endless_script_is_refused(controller: ScriptedController) -> None:
    result = run("start", "new", "--from-script", "/dev/zero")
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.startswith("berth: /dev/zero has more than 4 MiB\n  hint: ")
    assert controller.asked == []


def test_a_file_in_place_of_a_directory_is_the_users_error(controller: ScriptedController, tmp_path: Path) -> None:
    assert controller
    result = run("ssh-config", "--output", str(tmp_path / "config.yaml"))
    assert result.exit_code == ExitCode.FAILED
    assert result.stderr.startswith(
        f"berth: cannot use {tmp_path / 'config.yaml'}: File exists\n  hint: check the path"
    )
