"""The state machine of a session: a pure function of its known state and Slurm's answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from broker.schema.sessions import Endpoint, SessionState
from slurm.state import JobState

if TYPE_CHECKING:
    from slurm.scheduler import FinishedJob, Job


@dataclass(frozen=True, slots=True)
class Outcome:
    """The new state of a session, with its reason, and its endpoint if it has one."""

    state: SessionState
    reason: str = ""
    endpoint: Endpoint | None = None
    outcome: str = ""
    """Slurm's word for how the job ended; empty while it has not."""
    at: float | None = None
    """When it ended, if that is known."""


def next_state(state: SessionState, job: Job, endpoint: Endpoint | None) -> Outcome:
    """What a session in `state` becomes when Slurm shows its job as `job` and the job has announced `endpoint`.

    Called with positive knowledge only: a missing answer, or a missing job, never gets here. A state that Slurm's
    version knows and we do not leaves the session as it is.
    """
    if job.state.ended:
        return ended(state, job.state, job.reason)
    if state is SessionState.STOPPING:
        return Outcome(state, "waiting for the job to end")
    if job.state in _NO_NEWS:
        return Outcome(state, _NO_NEWS[job.state], endpoint)
    if job.state.waits:
        return Outcome(SessionState.QUEUED, job.reason)
    if endpoint is None:
        return Outcome(SessionState.STARTING, f"starting on {job.node}")
    return Outcome(SessionState.READY, "", endpoint)


CANCELLED_OUTSIDE = "the job was cancelled outside Berth"
"""For as long as nobody says by whom."""


def cancelled_by(user: str) -> str:
    """Why a session has stopped whose job somebody has cancelled."""
    return f"the job was cancelled outside Berth, by {user}"


def ended(state: SessionState, word: JobState, reason: str = "", *, canceller: str = "") -> Outcome:
    """What a session in `state` becomes when its job has ended as `word`.

    After `berth stop` any end is a stop. A job that was cancelled by somebody else, or ended well by itself, leaves a
    stopped session that says so; everything else is a failure that the user should hear about.
    """
    if state is SessionState.STOPPING:
        return Outcome(SessionState.STOPPED, "", outcome=word.value)
    if word is JobState.CANCELLED:
        because = cancelled_by(canceller) if canceller else CANCELLED_OUTSIDE
        return Outcome(SessionState.STOPPED, because, outcome=word.value)
    if word is JobState.COMPLETED:
        return Outcome(SessionState.STOPPED, "the job ended by itself", outcome=word.value)
    return Outcome(
        SessionState.FAILED,
        _WORDS.get(word, f"the job ended as {word.value}") + _because(word, reason),
        outcome=word.value,
    )


def ended_in_accounting(state: SessionState, job: FinishedJob) -> Outcome:
    """The same from slurmdbd's record, for a job that slurmctld has forgotten."""
    reason = f"exit code {job.exit_code}" if job.exit_code else ""
    outcome = ended(state, job.state, reason, canceller=job.cancelled_by)
    return replace(outcome, at=job.ended_at)


def lost(state: SessionState) -> Outcome:
    """What a session becomes when neither slurmctld nor slurmdbd has known its job for longer than Slurm forgets."""
    if state is SessionState.STOPPING:
        return Outcome(SessionState.STOPPED)
    return Outcome(SessionState.FAILED, "Slurm does not know the job any more; start the session again", outcome="LOST")


def _because(word: JobState, reason: str) -> str:
    plain = reason and reason.upper().replace(" ", "_") != word.value
    return f" ({reason})" if plain else ""


_NO_NEWS = {
    JobState.COMPLETING: "the job is ending",
    JobState.UNKNOWN: "Slurm reports a state that this version does not know",
}

_WORDS: dict[JobState, str] = {
    JobState.OUT_OF_MEMORY: "out of memory: the session used more than its job asked for; start it with a larger --mem",
    JobState.TIMEOUT: "the job reached its time limit; start it again, or with a longer --time",
    JobState.NODE_FAIL: "the node failed; start the session again",
    JobState.PREEMPTED: "a job of higher priority took the place; start the session again",
    JobState.FAILED: "the job failed; `berth logs` has the end of its log",
    JobState.BOOT_FAIL: "the node did not boot; start the session again",
    JobState.DEADLINE: "the job's deadline passed",
}
