"""The process that waits for ssh: signals, stops and exit codes are as if ssh ran alone."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from broker.cli import ssh_watcher
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

EXPLAIN = ("/bin/sh", "-c", 'echo "explained $1"; exit "$1"', "explain")


def command(ssh: str, explain: Sequence[str] = EXPLAIN) -> list[str]:
    return ssh_watcher.watcher_command(explain, ["/bin/sh", "-c", ssh])


@contextlib.contextmanager
def watched(ssh: str, ready: Path) -> Iterator[subprocess.Popen[str]]:
    """A watcher whose ssh, a shell script, has begun. It leads a group of processes, as a shell's job does."""
    script = f"echo $$ >{shlex.quote(str(ready))}.new; mv {ready}.new {ready}; {ssh}"
    with subprocess.Popen(command(script), stdout=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            until(ready.exists)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def until(condition: object) -> None:
    assert callable(condition)
    ends = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def state(process: int) -> str:
    """Return the state as in proc(5); empty for a process that is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{process}/stat") as file:  # noqa: PTH123
        return file.read().rpartition(") ")[2][0]
    return ""


@pytest.mark.parametrize("code", [0, 1, 37, 130])
def test_exit_code_is_ssh_s(code: int) -> None:
    done = subprocess.run(command(f"cat; exit {code}"), input="in", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "in", "")


@pytest.mark.parametrize("code", sorted(ssh_watcher.SUSPECT_CODES))
def test_possible_end_of_session_is_explained(code: int) -> None:
    done = subprocess.run(command(f"exit {code}"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, f"explained {code}\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_reaches_ssh_and_ends_both(tmp_path: Path, number: signal.Signals) -> None:
    with watched("exec sleep 600", tmp_path / "ready") as process:
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == -number


def test_ssh_ends_when_its_watcher_is_killed(tmp_path: Path) -> None:
    with watched("exec sleep 600", tmp_path / "ready") as process:
        child = int((tmp_path / "ready").read_text())
        process.kill()
        until(lambda: state(child) in {"", "Z"})


def test_ssh_that_stops_itself_stops_its_watcher(tmp_path: Path) -> None:
    """As `~^Z` does: the shell waits for the watcher, and `fg` continues the group."""
    with watched("kill -TSTP $$; echo continued; exit 3", tmp_path / "ready") as process:
        until(lambda: state(process.pid) == "T")
        os.killpg(process.pid, signal.SIGCONT)
        assert process.communicate(timeout=DEADLINE_S)[0] == "continued\n"
        assert process.returncode == 3


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """As with nohup(1)."""
    argv = command("echo begun; read word; exit 5")
    with subprocess.Popen(["nohup", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGHUP)
        process.communicate(b"go\n", timeout=DEADLINE_S)
        assert process.returncode == 5
