"""The step from one job of a session to the next, as pure functions.

They decide whether there is a next job, and give the columns of its submission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from broker.controller.registry.models import Session

CARRIED = frozenset({SessionState.QUEUED, SessionState.STARTING, SessionState.READY})
"""States in which a successor counts; in every other one its job is one too many, and is cancelled."""

END_EARLY = 5.0
"""Seconds before its time limit at which a session's job ends by itself: END_EARLY_S in job/node/time_limit.sh."""
TIME_UP = 30.0
"""A job that ends well within so many seconds of its limit has ended because of it: it needs some to shut down."""

FORESEEN_BY_NOBODY = frozenset({"TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"})
"""Ends of a job that are neither somebody's wish nor the session's own fault, so that another job may carry it on."""

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}

_OF_THE_JOB: dict[str, Any] = {
    "reason": "",
    "restarts": 0,
    "job_id": None,
    "node": "",
    "port": 0,
    "fingerprint": "",
    "outcome": "",
    "first_start": False,
    "root": False,
    "successor": 0,
    "successor_job": None,
    "resize": None,
    "stop_reason": "",
} | dict.fromkeys(
    (
        "submitted_at",
        "attempted_at",
        "started_at",
        "expected_start_at",
        "ahead",
        "ends_at",
        "ended_at",
        "missing_since",
        "cancelled_at",
        "successor_at",
        "idle_since",
        "gpu_idle_since",
        "idle_stop_at",
    )
)
"""What is forgotten of one job when the next one is asked for."""


def next_submission(now: Session) -> dict[str, Any]:
    """The columns of a session without a job that is to get the next one."""
    number = now.submissions + 1
    return _OF_THE_JOB | {"state": SessionState.SUBMITTING, "submission": number, "submissions": number}


def taken_over(now: Session, job_id: int) -> dict[str, Any]:
    """The columns of a session that its successor carries from now on."""
    resized = now.resize or {}
    return _OF_THE_JOB | {"state": SessionState.QUEUED, "submission": now.successor, "job_id": job_id} | resized


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
    near = session.ends_at is not None and ended_at >= session.ends_at - TIME_UP
    return outcome == "COMPLETED" and near


def may_be_carried_on(session: Session, outcome: str, ended_at: float, *, waits: bool) -> bool:
    """Whether another job may follow the one that has ended so: it has been ready, so the next may be too, and nobody
    wanted the end. `waits`: there is one already; only it may follow a job that Slurm has lost, as both have one name,
    and it would not run while the first does.
    """
    if session.state is SessionState.STOPPING or session.root or not session.fingerprint:
        return False
    if session.resize is not None:
        return waits  # it was ended for that
    if outcome == "LOST":
        return waits
    return outcome in FORESEEN_BY_NOBODY or time_was_up(session, outcome, ended_at)


def successor_due(session: Session, now: float, lead: float) -> bool:
    """Whether it is time to ask for the job that is to follow: `lead` seconds before the end of the present one's time,
    or half of a short one's.
    """
    if session.state is not SessionState.READY or session.successor or session.successor_at is not None:
        return False
    if session.ends_at is None or session.started_at is None or session.missing_since is not None:
        return False
    if session.pending is not None or (session.stop_at is not None and session.stop_at <= session.ends_at):
        return False
    before = min(lead, (session.ends_at - session.started_at) / 2)
    return now >= session.ends_at - before and goes_on(session, now)
