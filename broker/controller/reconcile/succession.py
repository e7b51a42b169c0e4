"""The step from one job of a session to the next, as pure functions.

They decide whether a session gets a next job, and return the columns of its submission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.controller.reconcile.upgrading import carry_trial, takes_offer
from broker.controller.registry.registry import JobChange
from broker.schema.sessions import LIVE, SessionState

if TYPE_CHECKING:
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import EventEntry

CONTINUABLE_STATES = frozenset({SessionState.QUEUED, SessionState.STARTING, SessionState.READY})
"""States in which a session may have a successor. In any other state Berth cancels the successor's job."""

END_EARLY_S = 5.0
"""Seconds before its time limit at which a session's job shuts down: END_EARLY_S in job/node/time_limit.sh."""
TIME_UP_S = 30.0
"""A job that completes within so many seconds of its time limit has ended because of it: the shutdown takes time."""

UNPLANNED_OUTCOMES = frozenset({"TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"})
"""Outcomes of a job that neither a user requested nor the session caused, so that another job may continue it."""

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}

_OF_THE_STATE: dict[str, Any] = {
    "reason": "",
    "first_start": False,
    "root": False,
    "successor": 0,
    "stop_reason": "",
}
"""Columns that are reset when the session's next job is requested, or becomes its job."""


def next_submission(session: Session) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of a session without a job at the request of its next one, and the columns of that job."""
    number = session.submissions + 1
    values = _OF_THE_STATE | {"state": SessionState.SUBMITTING, "submission": number, "submissions": number}
    return values | carry_trial(session, number), next_job(session)


def next_job(session: Session) -> dict[str, Any]:
    """Return the columns of a session's next job, as far as they are known before its submission."""
    job = session.job
    inherited = {name: getattr(job, name) for name in ("gpus", "continuation_default", "idle_default")}
    return inherited | {"options": session.options}


def ask_successor(
    session: Session,
    now: float,
    entry: EventEntry | None = None,
    **job: Any,  # noqa: ANN401 - columns of several types
) -> JobChange:
    """Return the change that requests the session's successor while its present job runs."""
    number = session.submissions + 1
    return JobChange(
        {"successor": number, "submissions": number},
        entry,
        job={"successor_at": now},
        next_job=next_job(session) | {"asked_at": now} | job,
    )


def without_successor(session: Session, entry: EventEntry) -> JobChange:
    """Return the change of a session whose successor is given up.

    A resize was requested by the user; at its time limit, the present job still gets a successor that continues it.
    """
    return JobChange({"successor": 0}, entry, job={"successor_at": None} if session.resizing else {})


def outlives_successor(session: Session) -> bool:
    """Whether the session has its present job still, and the submission of a successor was requested in vain: its
    files may be in the session's directory.
    """
    lost = not session.successor and session.submissions > session.submission
    return lost and session.state in CONTINUABLE_STATES


def continue_with_successor(session: Session, job_id: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of a session whose successor becomes its job, and the columns of that job."""
    values = _OF_THE_STATE | {"state": SessionState.QUEUED, "submission": session.successor}
    return values | {"options": session.options_of(session.successor)}, {"job_id": job_id}


def seconds_of(time: str) -> float:
    """Convert a time such as `12h` to seconds."""
    return float(time[:-1]) * _UNITS[time[-1]]


def _is_used(session: Session, now: float) -> bool:
    """Whether the session was used recently enough to continue by its policy."""
    policy = session.continuation_in_force
    if policy in {"always", "never", ""}:
        return policy == "always"
    used = session.used_at if session.used_at is not None else session.created_at
    return now - used <= seconds_of(policy)


def should_continue(session: Session, now: float) -> bool:
    """Whether another job should continue the session: until its stop time if it is kept until then, else by its
    policy and its last use.
    """
    if session.stop_at is not None and now >= session.stop_at:
        return False
    if session.stays:
        return not session.root
    return not session.root and _is_used(session, now)


def has_reached_time_limit(session: Session, outcome: str, ended_at: float) -> bool:
    """Whether a completed job ended because of its time limit."""
    ends_at = session.job.ends_at
    near = ends_at is not None and ended_at >= ends_at - TIME_UP_S
    return outcome == "COMPLETED" and near


def is_same_run(observed: Session, current: Session) -> bool:
    """Whether `current` is still in the observed submission, without a stop since then."""
    return (
        current.submission == observed.submission
        and current.state in LIVE
        and (current.state is observed.state or current.state is not SessionState.STOPPING)
    )


def can_continue_after(session: Session, outcome: str, ended_at: float, *, waits: bool) -> bool:
    """Whether another job may continue the session after this outcome. The session must have been ready before.

    `waits`: a successor is in the queue. After a lost job only such a successor may continue the session: both jobs
    have the same name, so Slurm does not start it while the lost one runs.
    """
    if session.state is SessionState.STOPPING or session.root or not session.job.fingerprint:
        return False
    if session.resizing and (waits or session.takeover_begun):
        return True  # without the successor for which Berth has cancelled the job, another job has the former resources
    if outcome == "LOST":
        return waits
    return outcome in UNPLANNED_OUTCOMES or has_reached_time_limit(session, outcome, ended_at)


def successor_due(session: Session, now: float, lead: float) -> bool:
    """Whether it is time to request a successor: `lead` seconds before the present job's time limit, or half of the
    limit if that is shorter.
    """
    job = session.job
    if session.state is not SessionState.READY or session.successor or job.successor_at is not None:
        return False
    if job.ends_at is None or job.started_at is None or job.missing_since is not None:
        return False
    if session.pending is not None or (session.stop_at is not None and session.stop_at <= job.ends_at):
        return False
    if takes_offer(session):  # a job that waits now would begin with the present version
        return False
    before = min(lead, (job.ends_at - job.started_at) / 2)
    return now >= job.ends_at - before and should_continue(session, now)
