"""The functions of a job that gives up the volumes and waits, without a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.component.job.session_script import bash

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("reason", ["", "the image has no sshd", "ä" * 400, "no room " * 100])
def test_an_answer_has_one_size_and_all_its_lines(tmp_path: Path, reason: str) -> None:
    (tmp_path / "run").mkdir()
    done = bash("DIRECTORY=$1 NOT_READY_REASON=$2; write_hold_outcome failed 4", str(tmp_path), reason)
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "run/hold.outcome").read_bytes()
    assert len(content) == 512
    lines = content.split(b"\n")
    assert lines[:2] == [b"RESULT=failed", b"ID=4"]
    assert lines[2] == b"MESSAGE=" + reason.encode()[:300]


@pytest.mark.parametrize(
    ("variables", "code", "returns"),
    [
        ("READY_BY=99", 71, True),
        ("READY_BY=99", 0, True),
        ("READY_BY=99", 73, False),
        ("READY_BY=99 STOPPING=yes", 0, False),
        ("READY_BY=99 ORPHANED=yes", 0, False),
        ("READY_BY=''", 71, False),
        ("", 71, False),
    ],
)
def test_only_a_run_that_may_be_undone_leads_back(variables: str, code: int, returns: bool) -> None:
    assert (bash(f"{variables}; has_to_return {code}").returncode == 0) is returns


def test_the_reason_is_the_last_error_or_else_the_last_line() -> None:
    lines = ["2026 berth: error: no room: x", "a line", ""]
    done = bash(
        'FAILURE="" LAST_LINE=""; for l in "$@"; do note_failure "$l"; done; echo "$FAILURE|$LAST_LINE"', *lines
    )
    assert done.stdout == "no room: x|a line\n"


def test_a_run_that_is_not_ready_in_time_ends() -> None:
    done = bash("BERTH_READY_LIMIT=5 READY_BY=0; check_ready_limit")
    assert (done.returncode, "sshd did not listen within 5 s" in done.stdout) == (75, True)
    assert bash("READY_BY=''; check_ready_limit").returncode == 0
    assert bash("READY_BY=99; check_ready_limit").returncode == 0


@pytest.mark.parametrize(
    ("text", "request_id"),
    [
        ("ID=a1\nSUBMISSION=3\n", "a1"),
        ("SUBMISSION=3\nID=a1", "a1"),
        ("ID=a1\nSUBMISSION=2\n", ""),
        ("ID=a/1\nSUBMISSION=3\n", ""),
        ("", ""),
    ],
)
def test_a_request_is_for_one_submission(tmp_path: Path, text: str, request_id: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/hold").write_text(text)
    done = bash('DIRECTORY=$1 BERTH_SUBMISSION=3; read_hold_request; echo "$HOLDING"', str(tmp_path))
    assert (done.stdout, done.stderr) == (f"{request_id}\n", "")
