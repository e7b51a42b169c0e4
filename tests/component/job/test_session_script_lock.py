"""A job that waits for run/lock: it says so, and opens nothing for a submission that has been overtaken."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

import pytest

from tests.component.job.session_script import bash
from tests.component.job.test_session_script import job_env

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

WAITS = """write_job_comment() { echo "comment $1"; }
load_job_env() { read_job_env "$DIRECTORY/run/job.env"; }
flock() { if [[ $1 == -n ]]; then command flock "$@"; else eval "$MEANWHILE"; fi; }
"""
"""Slurm is not asked, and the test says what happens while the job waits."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/job.env").write_text(job_env(BERTH_SUBMISSION="3"))
    return tmp_path


def lock(directory: Path, meanwhile: str) -> subprocess.CompletedProcess[str]:
    code = 'DIRECTORY=$1 MEANWHILE=$2; load_job_env; lock_volumes; echo "locked $BERTH_SUBMISSION"'
    return bash(WAITS + code, str(directory), meanwhile)


def test_job_without_a_predecessor_says_nothing(directory: Path) -> None:
    assert lock(directory, "false").stdout == "locked 3\n"


@pytest.mark.parametrize(
    ("meanwhile", "code", "says"),
    [
        (":", 0, "locked 3"),
        ("false", 68, "error: another job has the volumes of this session open"),
        ('sed -i s/SUBMISSION=3/SUBMISSION=2/ "$DIRECTORY/run/job.env"', 73, "the session is at 2"),
    ],
)
def test_job_waits_and_looks_again(directory: Path, meanwhile: str, code: int, says: str) -> None:
    with (directory / "run/lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = lock(directory, meanwhile)
    assert (done.returncode, says in done.stdout) == (code, True), done.stdout
    assert "comment waits" in done.stdout
