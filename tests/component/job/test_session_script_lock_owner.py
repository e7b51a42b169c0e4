"""run/lock.owner keeps the volumes from a second job where the lock itself does not: the lock is free in all tests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from slurm.state import JobState
from tests.component.job.session_script import bash
from tests.component.job.test_session_script import job_env
from tests.job_scripts import PARTS

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

OTHER = "JOB=6\nRUN=2.0\nNODE=c2\n"
OWN = "JOB=7\nRUN=3.0\nNODE=c1\n"
BY_ID, BY_NAME = "--jobs=6,7", "--name=berth-01jz0000000000000000000000"
CODE = """
write_job_comment() { echo "comment $1"; }
load_job_env() { read_job_env "$DIRECTORY/run/job.env"; }
DIRECTORY=$1; load_job_env; BERTH_SCONTROL=$1/scontrol BERTH_LOCK_WAIT=${2:-0}
lock_volumes
echo "locked, $(tr '\\n' ' ' <"$DIRECTORY/run/lock.owner")"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/job.env").write_text(job_env(BERTH_SESSION_ID=BY_NAME.removeprefix("--name=berth-")))
    says(tmp_path, "exit 1")
    return tmp_path


def says(directory: Path, *answers: str) -> None:
    """Let squeue give these answers, one at each call, and the last one from then on."""
    program = directory / "squeue"
    cases = "".join(f"{number}) {answer} ;;\n" for number, answer in enumerate(answers[:-1], 1))
    program.write_text(
        f'#!/bin/bash\necho "$*" >>"$0.calls"\ncase $(wc -l <"$0.calls") in\n{cases}*) {answers[-1]} ;;\nesac\n'
    )
    program.chmod(0o700)


def jobs(**states: str) -> str:
    lines = [f"{name.removeprefix('j')} {state}" for name, state in states.items()]
    return "printf '%s\\n' " + " ".join(f"'{line}'" for line in lines)


def owned_by(directory: Path, content: bytes | str) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (directory / "run/lock.owner").write_bytes(data)


def lock(directory: Path, wait: int = 0) -> subprocess.CompletedProcess[str]:
    done = bash(CODE, str(directory), str(wait))
    assert not list(directory.glob("run/lock.owner.*"))
    return done


def questions(directory: Path) -> list[str]:
    calls = directory / "squeue.calls"
    return calls.read_text().splitlines() if calls.exists() else []


def is_locked(done: subprocess.CompletedProcess[str]) -> bool:
    return done.stdout.endswith("locked, JOB=7 RUN=3.0 NODE=c1 \n")


def test_job_after_one_that_has_written_no_record_asks_nothing(directory: Path) -> None:
    done = lock(directory)
    assert (is_locked(done), done.stderr, questions(directory)) == (True, "", [])
    assert "comment" not in done.stdout


@pytest.mark.parametrize("record", [OWN, OWN.replace("3.0", "2.1").replace("c1", "c9")])
def test_requeued_job_finds_its_own_record(directory: Path, record: str) -> None:
    owned_by(directory, record)
    assert is_locked(lock(directory))
    assert not questions(directory)


@pytest.mark.parametrize("state", ["", "COMPLETED", "CANCELLED", "NODE_FAIL", "PENDING", "REQUEUE_HOLD"])
def test_job_continues_if_slurm_says_that_the_owner_is_over(directory: Path, state: str) -> None:
    owned_by(directory, OTHER)
    says(directory, jobs(j6=state, j7="RUNNING") if state else jobs(j7="RUNNING"))
    done = lock(directory)
    assert is_locked(done), done.stdout
    assert "comment" not in done.stdout, "no controller has to end a job"
    assert len(questions(directory)) == 1
    assert questions(directory)[0].split()[:5] == ["--me", "--all", "--noheader", "--states=all", BY_ID]


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "A_NEW_WORD", ""])
def test_job_ends_if_the_owner_still_has_processes(directory: Path, state: str) -> None:
    owned_by(directory, OTHER)
    says(directory, jobs(j6=state, j7="RUNNING"))
    done = lock(directory)
    assert done.returncode == 68
    reason = "job 6 on c2 (run/lock.owner) has the volumes of this session open"
    assert f"{reason}; waiting up to 0 s for its lock" in done.stdout
    assert f"error: {reason}\n" in done.stdout
    assert "comment waits" in done.stdout
    assert (directory / "run/lock.owner").read_text() == OTHER


@pytest.mark.parametrize("answer", ["exit 1", "exit 0", jobs(j6="COMPLETED"), f"{jobs(j7='RUNNING')}; exit 1"])
def test_answer_without_this_job_is_none(directory: Path, answer: str) -> None:
    owned_by(directory, OTHER)
    says(directory, answer)
    done = lock(directory)
    assert done.returncode == 68
    assert "error: Slurm does not say whether job 6 on c2 (run/lock.owner) is over\n" in done.stdout
    assert (directory / "run/lock.owner").read_text() == OTHER


def test_job_waits_until_the_owner_is_over(directory: Path) -> None:
    owned_by(directory, OTHER)
    says(directory, jobs(j6="RUNNING", j7="RUNNING"), "exit 1", jobs(j6="COMPLETED", j7="RUNNING"))
    done = lock(directory, wait=60)
    assert is_locked(done), done.stdout
    assert "comment waits" in done.stdout
    assert len(questions(directory)) == 3


def test_job_waits_until_the_owner_has_removed_its_record(directory: Path) -> None:
    owned_by(directory, OTHER)
    says(directory, f'rm "{directory}/run/lock.owner"; {jobs(j6="COMPLETING", j7="RUNNING")}')
    assert is_locked(lock(directory, wait=60))
    assert len(questions(directory)) == 1


def test_overtaken_job_opens_nothing_after_its_wait(directory: Path) -> None:
    owned_by(directory, OTHER)
    overtaken = f'rm "{directory}/run/lock.owner"; sed -i s/SUBMISSION=3/SUBMISSION=4/ "{directory}/run/job.env"'
    says(directory, f"{overtaken}; exit 1")
    done = lock(directory, wait=60)
    assert (done.returncode, "the session is at 4" in done.stdout) == (73, True), done.stdout
    assert not (directory / "run/lock.owner").exists()


@pytest.mark.parametrize(
    "content",
    [
        *("", "\n", "JOB=\n", "6", OTHER.replace("6", "6_1"), OTHER.replace("6", "[6-9]"), OTHER.replace("6", "6,7")),
        *(OTHER.replace("6", "06"), OTHER.replace("6", "6" * 11), f"{OTHER}JOB=7\n", OTHER.replace("c2", "c2 --x")),
        *(
            OTHER.replace("c2", "$(touch x)"),
            "JOB=6\n",
            b"\xff\xfe\0\0" * 99,
            "x" * 100_000,
            OTHER.replace("c2", "c" * 999),
        ),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_for_a_record_that_names_no_job_all_jobs_of_the_session_count(
    directory: Path, content: bytes | str, *, alone: bool
) -> None:
    owned_by(directory, content)
    says(directory, jobs(j7="RUNNING", j8="PENDING", j9="COMPLETED", j6="COMPLETED" if alone else "RUNNING"))
    done = lock(directory)
    assert is_locked(done) is alone, done.stdout
    assert {call.split()[4] for call in questions(directory)} == {BY_NAME}
    assert alone or "error: another job of this session has the volumes" in done.stdout


def test_something_else_in_place_of_the_record_holds_up_nothing(directory: Path) -> None:
    says(directory, jobs(j7="RUNNING"))
    (directory / "run/lock.owner").mkdir()
    done = bash(f"{CODE}", str(directory))
    assert "warning: run/lock.owner could not be written" in done.stdout
    (directory / "run/lock.owner").rmdir()
    (directory / "run/lock.owner").symlink_to("/dev/zero")
    assert is_locked(lock(directory))
    assert not (directory / "run/lock.owner").is_symlink()


@pytest.mark.parametrize(("content", "stays"), [(OWN, False), (OTHER, True), ("", True), (None, False)])
def test_job_removes_its_own_record_only(directory: Path, content: str | None, *, stays: bool) -> None:
    replaced = 'rm "$1/run/lock.owner"; [[ ! -e $1/given ]] || cp "$1/given" "$1/run/lock.owner"'
    if content is not None:
        (directory / "given").write_text(content)
    code = f'{CODE}{replaced}; release_volumes; release_volumes; echo "${{LOCK:-free}}"'
    done = bash(code, str(directory))
    assert done.stdout.endswith("\nfree\n"), done.stderr
    assert (directory / "run/lock.owner").exists() is stays


def test_record_outlives_a_job_that_never_had_the_volumes(directory: Path) -> None:
    owned_by(directory, OTHER)
    done = bash(f"trap release_volumes EXIT; {CODE}", str(directory))
    assert done.returncode == 68
    assert (directory / "run/lock.owner").read_text() == OTHER


def test_states_are_those_of_the_controller() -> None:
    found = re.search(r"STATES_WITHOUT_PROCESSES='(.*)'", (PARTS / "node/lock.sh").read_text())
    assert found is not None
    assert set(found[1].split("|")) == {state.value for state in JobState if state.waits or state.ended}
