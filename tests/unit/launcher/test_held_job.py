"""The files that the launcher writes for a kept job, and its reading of the job's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.launcher import held_job
from broker.launcher.held_job import begin_next_run, describe_hold, release_volumes
from slurm.state import JobState

if TYPE_CHECKING:
    from pathlib import Path

REQUEST = "op1"


class Job:
    """A job that answers a signal at once."""

    def __init__(self, run: Path, answer: str) -> None:
        self.run, self.answer, self.signals = run, answer, 0

    def signal(self, job_id: int) -> None:
        assert job_id == 7
        self.signals += 1
        (self.run / "hold.outcome").write_text(self.answer)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    made = Job(tmp_path, f"RESULT=held\nID={REQUEST}\nMESSAGE=\n")
    monkeypatch.setattr(held_job, "_signal", made.signal)
    monkeypatch.setattr(held_job, "_state", lambda _: JobState.RUNNING)
    return made


def test_room_for_the_next_run_is_reserved_until_it_begins(tmp_path: Path, job: Job) -> None:
    assert release_volumes(tmp_path, 3, REQUEST, 7, 1) == ""
    assert (tmp_path / "hold").read_text() == f"ID={REQUEST}\nSUBMISSION=3\n"
    assert (tmp_path / "hold.reserve").stat().st_size == held_job.RESERVE_BYTES

    def write_files() -> None:
        assert not (tmp_path / "hold.reserve").exists()
        (tmp_path / "hold.outcome").write_text("RESULT=begun\nID=4\n")

    begin_next_run(tmp_path, 4, 7, 1, write_files)
    assert job.signals == 1


def test_a_job_that_waits_by_itself_needs_no_further_room(tmp_path: Path, job: Job) -> None:
    (tmp_path / "hold.outcome").write_text("RESULT=failed\nID=3\nMESSAGE=no\n")
    release_volumes(tmp_path, 3, REQUEST, 7, 1)
    assert not (tmp_path / "hold.reserve").exists()
    assert job.signals == 1


def test_without_room_the_job_is_not_asked(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(held_job, "replace_file", full)
    with pytest.raises(OSError, match="No space"):
        release_volumes(tmp_path, 3, REQUEST, 7, 1)
    assert job.signals == 0
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_request_needs_no_room(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    release_volumes(tmp_path, 3, REQUEST, 7, 1)
    (tmp_path / "hold.outcome").write_text(" " * held_job.OUTCOME_FILE_BYTES)
    monkeypatch.setattr(held_job, "replace_file", None)
    release_volumes(tmp_path, 3, REQUEST, 7, 1)
    assert job.signals == 2


def test_the_answer_has_the_jobs_message(tmp_path: Path, job: Job) -> None:
    job.answer = f"RESULT=held\nID={REQUEST}\nMESSAGE=the image has no sshd = none\n"
    assert release_volumes(tmp_path, 3, REQUEST, 7, 1) == "the image has no sshd = none"


def test_a_run_that_has_failed_already_has_begun(tmp_path: Path, job: Job) -> None:
    (tmp_path / "hold.outcome").write_text("RESULT=failed\nID=4\nMESSAGE=no\n")
    begin_next_run(tmp_path, 4, 7, 1, lambda: pytest.fail("it has its files"))
    assert job.signals == 0


def test_a_job_that_has_not_looked_at_its_request_is_told_again(tmp_path: Path, job: Job) -> None:
    (tmp_path / "hold.outcome").write_text(" " * held_job.OUTCOME_FILE_BYTES)
    job.answer = "RESULT=begun\nID=4\n"
    begin_next_run(tmp_path, 4, 7, 1, lambda: None)
    assert job.signals == 1


@pytest.mark.parametrize(
    ("outcome", "released", "begun"),
    [
        ("", 3, 0),
        (f"RESULT=ending\nID={REQUEST}\n", 3, 0),
        (f"RESULT=held\nID={REQUEST}\n", 3, 0),
        ("RESULT=held\nID=another\n", 0, 0),
        ("RESULT=begun\nID=4\n", 0, 4),
        ("RESULT=failed\nID=4\n", 4, 0),
        ("RESULT=begun\nID=4x\n", 0, 0),
        ("RESULT=begun\nID=99999999999\n", 0, 0),
    ],
)
def test_the_state_of_a_kept_job_is_read(tmp_path: Path, outcome: str, released: int, begun: int) -> None:
    (tmp_path / "hold").write_text(f"ID={REQUEST}\nSUBMISSION=3\n")
    (tmp_path / "hold.outcome").write_text(outcome.ljust(held_job.OUTCOME_FILE_BYTES))
    assert describe_hold(tmp_path) == {"released": released, "begun": begun}


def test_a_session_without_a_request_has_no_kept_job(tmp_path: Path) -> None:
    assert describe_hold(tmp_path) == {"released": 0, "begun": 0}
