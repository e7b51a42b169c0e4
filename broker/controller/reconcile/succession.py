"""The step from one job of a session to the next, as pure functions.

They decide whether there is a next job, and give the columns of its submission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.controller.registry.registry import JobChange
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import EventEntry

CARRIED = frozenset({SessionState.QUEUED, SessionState.STARTING, SessionState.READY})
"""States in which a successor counts; in every other one its job is one too many, and is cancelled."""

END_EARLY = 5.0
"""Seconds before its time limit at which a session's job ends by itself: END_EARLY_S in job/node/time_limit.sh."""
TIME_UP = 30.0
"""A job that ends well within so many seconds of its limit has ended because of it: it needs some to shut down."""

FORESEEN_BY_NOBODY = frozenset({"TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"})
"""Ends of a job that are neither somebody's wish nor the session's own fault, so that another job may carry it on."""

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}

_OF_THE_STATE: dict[str, Any] = {
    "reason": "",
    "first_start": False,
    "root": False,
    "successor": 0,
    "stop_reason": "",
}
"""What a session forgets when the next job is asked for, or carries it."""


def next_submission(session: Session) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of a session without a job that is to get the next one, and the columns of that job."""
    number = session.submissions + 1
    values = _OF_THE_STATE | {"state": SessionState.SUBMITTING, "submission": number, "submissions": number}
    return values, next_job(session)


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
    """Return the change of a session whose next job is to be asked for while the present one carries it."""
    number = session.submissions + 1
    return JobChange(
        {"successor": number, "submissions": number},
        entry,
        job={"successor_at": now},
        next_job=next_job(session) | {"asked_at": now} | job,
    )


def taken_over(session: Session, job_id: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of a session that its successor carries from now on, and the columns of that job."""
    values = _OF_THE_STATE | {"state": SessionState.QUEUED, "submission": session.successor}
    return values | {"options": session.options_of(session.successor)}, {"job_id": job_id}


def seconds_of(time: str) -> float:
    """A time such as `12h` in seconds."""
    return float(time[:-1]) * _UNITS[time[-1]]


def _is_used(session: Session, now: float) -> bool:
    """Whether it was used recently enough to go on by its policy."""
    policy = session.continuation_in_force
    if policy in {"always", "never", ""}:
        return policy == "always"
    used = session.used_at if session.used_at is not None else session.created_at
    return now - used <= seconds_of(policy)


def goes_on(session: Session, now: float) -> bool:
    """Whether the session is to go on in another job: until it is to be stopped, if it is to stay until then, else by
    its policy and its last use.
    """
    if session.stop_at is not None and now >= session.stop_at:
        return False
    if session.stays:
        return not session.root
    return not session.root and _is_used(session, now)


def time_was_up(session: Session, outcome: str, ended_at: float) -> bool:
    """Whether a job that has ended well ended because its time limit was near."""
    ends_at = session.job.ends_at
    near = ends_at is not None and ended_at >= ends_at - TIME_UP
    return outcome == "COMPLETED" and near


def may_be_carried_on(session: Session, outcome: str, ended_at: float, *, waits: bool) -> bool:
    """Whether another job may follow the one that has ended so: it has been ready, so the next may be too, and nobody
    wanted the end. `waits`: there is one already; only it may follow a job that Slurm has lost, as both have one name,
    and it would not run while the first does.
    """
    if session.state is SessionState.STOPPING or session.root or not session.job.fingerprint:
        return False
    if session.resizing:
        return waits  # it was ended for that
    if outcome == "LOST":
        return waits
    return outcome in FORESEEN_BY_NOBODY or time_was_up(session, outcome, ended_at)


def successor_due(session: Session, now: float, lead: float) -> bool:
    """Whether it is time to ask for the job that is to follow: `lead` seconds before the end of the present one's time,
    or half of a short one's.
    """
    job = session.job
    if session.state is not SessionState.READY or session.successor or job.successor_at is not None:
        return False
    if job.ends_at is None or job.started_at is None or job.missing_since is not None:
        return False
    if session.pending is not None or (session.stop_at is not None and session.stop_at <= job.ends_at):
        return False
    before = min(lead, (job.ends_at - job.started_at) / 2)
    return now >= job.ends_at - before and goes_on(session, now)
