"""The state machine of a session: a pure function of its recorded state and Slurm's answer."""

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
    """Slurm's final state of the job; empty before its end."""
    at: float | None = None
    """The time of the job's end, if that is known."""


def next_state(state: SessionState, job: Job, endpoint: Endpoint | None) -> Outcome:
    """Return the next state of a session in `state` whose job is `job` and has announced `endpoint`.

    Only a job in Slurm's answer is evidence: a failed query or a missing job never gets here. A job state that this
    version does not know leaves the session unchanged.
    """
    if job.state.ended:
        return outcome_of_end(state, job.state, job.reason, node=job.node)
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
"""The reason until accounting reports the user."""


def cancellation_reason(user: str) -> str:
    """Return the reason of a session whose job `user` has cancelled."""
    return f"the job was cancelled outside Berth, by {user}"


def node_failed(node: str) -> str:
    """Return the reason of a job that ended with its node; `node` is empty if it is not known."""
    return f"node {node} failed" if node else "the node failed"


def outcome_of_end(
    state: SessionState, word: JobState, reason: str = "", *, canceller: str = "", node: str = ""
) -> Outcome:
    """Return the next state of a session in `state` whose job has ended in the state `word`, on `node` if it is known.

    After `berth stop` any end is a stop. A job that was cancelled outside Berth or has completed leaves a stopped
    session with that reason. Any other end is a failure.
    """
    if state is SessionState.STOPPING:
        return Outcome(SessionState.STOPPED, "", outcome=word.value)
    if word is JobState.CANCELLED:
        because = cancellation_reason(canceller) if canceller else CANCELLED_OUTSIDE
        return Outcome(SessionState.STOPPED, because, outcome=word.value)
    if word is JobState.COMPLETED:
        return Outcome(SessionState.STOPPED, "the job ended by itself", outcome=word.value)
    text = _WORDS.get(word, f"the job ended as {word.value}")
    if word is JobState.NODE_FAIL:
        text = f"{node_failed(node)}; start the session again"
    return Outcome(SessionState.FAILED, text + _because(word, reason), outcome=word.value)


def outcome_of_finished_job(state: SessionState, job: FinishedJob, node: str = "") -> Outcome:
    """Return the next state by slurmdbd's record of a job that slurmctld has forgotten, and that ran on `node`."""
    reason = f"exit code {job.exit_code}" if job.exit_code else ""
    outcome = outcome_of_end(state, job.state, reason, canceller=job.cancelled_by, node=node)
    return replace(outcome, at=job.ended_at)


def outcome_of_lost_job(state: SessionState) -> Outcome:
    """Return the next state of a session whose job neither slurmctld nor slurmdbd has known for the grace time."""
    if state is SessionState.STOPPING:
        return Outcome(SessionState.STOPPED)
    return Outcome(SessionState.FAILED, "Slurm no longer knows the job; start the session again", outcome="LOST")


def _because(word: JobState, reason: str) -> str:
    plain = reason and reason.upper().replace(" ", "_") != word.value
    return f" ({reason})" if plain else ""


_NO_NEWS = {
    JobState.COMPLETING: "the job is ending",
    JobState.UNKNOWN: "Slurm reports a state that this version does not know",
}

_WORDS: dict[JobState, str] = {
    JobState.OUT_OF_MEMORY: "out of memory: the session used more than its job requested; start it with a larger --mem",
    JobState.TIMEOUT: "the job reached its time limit; start it again, or with a longer --time",
    JobState.PREEMPTED: "a job of higher priority preempted the session; start the session again",
    JobState.FAILED: "the job failed; `berth logs NAME` has the end of its log",
    JobState.BOOT_FAIL: "the node did not boot; start the session again",
    JobState.DEADLINE: "the job's deadline passed",
}
