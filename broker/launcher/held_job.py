"""Let a session's job give up its volumes and wait, and later begin the session's next run (ADR 136).

Launcher and job talk through files in the session's `run` directory (docs/reference/session-job.md): `hold` names the
submission whose volumes the job gives up, `hold.outcome` has the job's answers. A signal makes the job look at once;
the next run begins when the job sees its `job.env`. Standard library only.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from broker.failpoints import failpoint
from broker.launcher.request import VerbError
from broker.launcher.sbatch_call import UNCLEAR, run_clean
from broker.volumes.files import replace_file
from broker.volumes.live_snapshot import read_outcome
from profiles.userfile import read_bytes
from slurm.state import JobState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OUTCOME_FILE_BYTES = 512
"""Size of the file for the job's answers: a full disk has no room for a new one."""
RESERVE_BYTES = 256 * 1024
"""Size of run/hold.reserve, which keeps room for the files of the next run: the disk may be full by then."""
POLL_INTERVAL_S = 0.05
STATE_INTERVAL_S = 2.0
"""Seconds between queries of the job's state, which ends a wait for a job that has ended."""
ANSWER_TIMEOUT_S = 20.0
"""Seconds for the first answer: a job of an earlier version gives none."""
TOOL_TIMEOUT_S = 30.0
_SUBMISSION = re.compile(r"[1-9][0-9]{0,8}")
FORGOTTEN = "Invalid job id specified"
"""The message of squeue(1) for a job that slurmctld no longer knows."""


def release_volumes(run: Path, submission: int, request: str, job_id: int, timeout: float) -> str:
    """Let the job of that submission end its container and release the volumes; return when it has.

    The job waits for `begin` then. The answer is the job's message if its last run did not become ready, else empty. A
    repeated `request` finds its answer. VerbError `ended`: the job has ended; `conflict`: the job does not know this
    request; `unclear`: Slurm does not answer, or the job takes longer. OSError without room for the request: the job
    has not received it.
    """
    outcome = run / "hold.outcome"
    if not _answer(outcome, request):  # an earlier attempt may have its answer already, and the job writes it once
        content = f"ID={request}\nSUBMISSION={submission}\n".encode()
        if not _has_content(run / "hold", content):  # else an earlier attempt may have sent the signal
            waits = (
                read_outcome(outcome).get("RESULT") == "failed"
            )  # by itself: the room may be used up by its last run
            if not waits:
                replace_file(run / "hold.reserve", os.urandom(RESERVE_BYTES))
            if read_outcome(outcome) or not outcome.exists():  # of an earlier request; a blank file may just be written
                replace_file(outcome, b" " * OUTCOME_FILE_BYTES)
            replace_file(run / "hold", content)
        failpoint("hold.requested")
        _signal(job_id)
        _wait(job_id, lambda: _answer(outcome, request) != "", ANSWER_TIMEOUT_S, kind="conflict")
    _wait(job_id, lambda: _answer(outcome, request) == "held", timeout, kind="unclear")
    failpoint("hold.held")
    return read_outcome(outcome).get("MESSAGE", "")


def begin_next_run(run: Path, submission: int, job_id: int, timeout: float, write_files: Callable[[], object]) -> None:
    """Write the files of the session's next run, and return when the held job has begun it.

    A job that Slurm has requeued begins it when it starts. A job that has not answered a request to give up the volumes
    gets its signal again. VerbError `ended`: the job has ended and begins nothing; `unclear`: it may still begin.
    """

    def has_begun() -> bool:
        return _answer(run / "hold.outcome", str(submission)) in {
            "begun",
            "failed",
        }  # a short run may have failed already

    if has_begun():
        return
    state = _check_alive(job_id)
    if state is JobState.COMPLETING:
        raise VerbError("unclear", f"job {job_id} is ending, or Slurm requeues it")
    (run / "hold.reserve").unlink(missing_ok=True)
    write_files()
    failpoint("hold.begun")
    if not state.waits:
        if not read_outcome(run / "hold.outcome"):
            _signal(job_id)
        _wait(job_id, has_begun, timeout)


def describe_hold(run: Path) -> dict[str, int]:
    """Return the submission whose volumes the session's last kept job gave up last, and the one that it began last.

    `released` is 0 once a run has begun after it, and `begun` is 0 while the job waits for one.
    """
    request, outcome = read_outcome(run / "hold"), read_outcome(run / "hold.outcome")
    result, subject = outcome.get("RESULT", ""), outcome.get("ID", "")
    if result == "begun":
        return {"released": 0, "begun": _number(subject)}
    if result == "failed":
        return {"released": _number(subject), "begun": 0}
    current = not outcome or subject == request.get("ID")
    return {"released": _number(request.get("SUBMISSION", "")) if current else 0, "begun": 0}


def _number(text: str) -> int:
    return int(text) if _SUBMISSION.fullmatch(text) else 0


def _has_content(path: Path, content: bytes) -> bool:
    try:
        return read_bytes(path, len(content) + 1) == content
    except OSError:
        return False


def _answer(outcome: Path, request: str) -> str:
    """Return the job's answer to that request; empty without one."""
    reported = read_outcome(outcome)
    return reported.get("RESULT", "") if reported.get("ID") == request else ""


def _wait(job_id: int, done: Callable[[], bool], timeout: float, kind: str = "unclear") -> None:
    """Wait until the condition holds; VerbError `ended` if the job ends before, `kind` after `timeout` seconds."""
    began = asked = time.monotonic()
    while not done():
        now = time.monotonic()
        if now - began > timeout:
            raise VerbError(kind, f"job {job_id} did not answer within {timeout:g} s")
        if now - asked > STATE_INTERVAL_S:
            _check_alive(job_id, done)
            asked = time.monotonic()
        time.sleep(POLL_INTERVAL_S)


def _check_alive(job_id: int, done: Callable[[], bool] = lambda: False) -> JobState:
    """Return the job's state; VerbError `ended` if the job has ended and the condition does not hold."""
    state = _state(job_id)
    if state.ended and not done():
        raise VerbError("ended", f"job {job_id} has ended")
    return state


def _state(job_id: int) -> JobState:
    """Return the job's state by squeue(1), COMPLETED if Slurm has forgotten it. VerbError `unclear` without answer."""
    done = run_clean(["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T"], TOOL_TIMEOUT_S)
    words = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0 and FORGOTTEN not in words:
        raise VerbError("unclear", words[-500:] or f"squeue exited with status {done.returncode}")
    return JobState.parse(done.stdout.decode(errors="replace").strip() or JobState.COMPLETED)


def _signal(job_id: int) -> None:
    """Send USR2 to the batch shell (scancel(1)). Whether the job has ended shows in its state."""
    done = run_clean(["scancel", "--batch", "--signal=USR2", str(job_id)], TOOL_TIMEOUT_S)
    words = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0 and UNCLEAR.search(words):
        raise VerbError("unclear", words[-500:])
