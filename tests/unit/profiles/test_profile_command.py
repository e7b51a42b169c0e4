from __future__ import annotations

import os
import time
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from profiles.build.command import CommandFailed, run_logged

if TYPE_CHECKING:
    from pathlib import Path


def soon(seconds: float = 20) -> float:
    return time.monotonic() + seconds


def gone(pid: int) -> bool:
    """Whether the process has ended, at the latest in ten seconds."""
    deadline = soon(10)
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_lines_come_as_they_are_written_and_the_log_has_all() -> None:
    log, lines = BytesIO(), list[str]()
    output = run_logged(
        ["sh", "-c", "echo one; echo two >&2; printf thr; printf ee"], log=log, deadline=soon(), line=lines.append
    )
    assert lines == ["one", "two", "three"]
    assert output == "one\ntwo\nthree"
    assert log.getvalue().endswith(b"one\ntwo\nthree")


def test_files_are_made_for_everybody_whatever_the_callers_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run_logged(["touch", str(tmp_path / "file")], log=BytesIO(), deadline=soon())
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        (
            "echo working; echo 'E: Unable to locate package sll'; echo more; exit 100",
            "E: Unable to locate package sll",
        ),
        ("echo working; echo last; echo; exit 1", "last"),
        ("exit 1", ""),
    ],
)
def test_a_failure_tells_the_line_that_matters(script: str, complaint: str) -> None:
    with pytest.raises(CommandFailed, match="sh ended with") as caught:
        run_logged(["sh", "-c", script], log=BytesIO(), deadline=soon())
    assert caught.value.complaint == complaint


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(CommandFailed):
        run_logged(["/no/such/program"], log=BytesIO(), deadline=soon())


def test_at_the_deadline_the_whole_group_is_killed() -> None:
    started = list[str]()
    began = time.monotonic()
    with pytest.raises(CommandFailed, match="did not end in time"):
        run_logged(["sh", "-c", "sleep 60 & echo $!; wait"], log=BytesIO(), deadline=soon(0.5), line=started.append)
    assert time.monotonic() - began < 10
    assert gone(int(started[0]))


def test_an_interrupt_kills_the_whole_group() -> None:
    started = list[str]()

    def interrupt(line: str) -> None:
        started.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_logged(["sh", "-c", "sleep 60 & echo $!; wait"], log=BytesIO(), deadline=soon(), line=interrupt)
    assert gone(int(started[0]))
