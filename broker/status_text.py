"""A session's state as text, for the command line and for ssh users, and times for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import clock, duration, size
from broker.schema.operations import OPERATIONS
from broker.schema.sessions import SessionState
from broker.schema.site import EventView

if TYPE_CHECKING:
    from broker.schema.connections import ConnectionView
    from broker.schema.sessions import OperationView, SessionView

END_IS_NEAR = 600.0
"""Seconds before the end of a job's time from which on everybody is told of it."""


_REASONS = {
    "AssocGrpCpuLimit": "your account uses as many processors as it may",
    "AssocGrpGRES": "your account uses as many GPUs as it may",
    "AssocMaxJobsLimit": "you have as many jobs as your account allows",
    "BeginTime": "its start time has not come",
    "Dependency": "the session's former job is still ending",
    "JobHeldAdmin": "an administrator holds it",
    "JobHeldUser": "you hold it",
    "Licenses": "waiting for a licence",
    "NodeDown": "a node it needs is down",
    "PartitionConfig": "it asks for more than the partition has",
    "PartitionDown": "the partition is down",
    "PartitionTimeLimit": "it asks for more time than the partition allows",
    "Priority": "others are before it",
    "QOSMaxGRESPerUser": "you use as many GPUs as your QOS allows",
    "QOSMaxJobsPerUserLimit": "you have as many jobs as your QOS allows",
    "ReqNodeNotAvail": "a node it needs is down or reserved",
    "Reservation": "its reservation has not begun",
    "Resources": "waiting for free resources",
}
"""Slurm's commonest reasons for waiting, in words; after "Job Reasons" of Slurm's manual."""


def state_words(view: SessionView, now: float) -> str:
    """Where the session is, such as `queued: Resources (waiting for free resources), expected to start 12:30`."""
    operation = pending(view)
    if operation is None:
        return _bare_state(view, now)
    if view.state is SessionState.CHANGING:
        return doing(operation.verb)
    then = "; then " if view.state is SessionState.STOPPING else "; "
    return _bare_state(view, now) + then + doing(operation.verb)


def _bare_state(view: SessionView, now: float) -> str:
    because = f": {_reason(view.reason)}" if view.reason else ""
    if view.state is SessionState.SUBMITTING:
        return f"submitting the job to Slurm{because}"
    if view.state is SessionState.QUEUED:
        expected = view.expected_start_at
        return f"queued{because}{_place(view.ahead)}{_expected(expected, now) if expected is not None else ''}"
    if view.state is SessionState.STARTING:
        return view.reason or "starting"
    if view.state is SessionState.READY and view.endpoint:
        ends = end_words(view, now)
        return f"ready on {view.endpoint.node}{'; ' if ends else ''}{ends}"
    return f"{view.state}{because}"


def end_words(view: SessionView, now: float) -> str:
    """What comes soon: `its job ends 18:05 (in 4 min), then job 13 carries it on`; empty if nothing does."""
    if view.endpoint is not None and view.idle_stop_at is not None:
        since = "" if view.idle_since is None else f" since {clock(view.idle_since, now)}"
        at = f"{clock(view.idle_stop_at, now)} (in {duration(view.idle_stop_at - now)})"
        return f"nothing uses it{since}: it is stopped {at}, unless something does"
    if view.endpoint is not None and view.stop_at is not None and view.stop_at - now <= END_IS_NEAR:
        return f"it is stopped {clock(view.stop_at, now)} (in {duration(view.stop_at - now)}), as was asked"
    if view.endpoint is None or view.ends_at is None or view.ends_at - now > END_IS_NEAR:
        return ""
    return f"its job ends {clock(view.ends_at, now)} (in {duration(view.ends_at - now)}), {then_words(view)}"


def then_words(view: SessionView) -> str:
    """What happens when the job of a running session ends at its limit."""
    if view.next_job_id is not None:
        return f"then job {view.next_job_id} carries it on"
    if view.continuation == "always":
        return "then another carries it on"
    if view.continuation in {"never", ""}:
        return "then it stops, and keeps its files"
    return f"then another carries it on if it was used in the last {view.continuation}"


def idle_words(view: SessionView, now: float) -> str:
    """Since when nothing uses it, or its GPU: `unused for 3 h`, `its GPU for 5 h`; empty while something does."""
    told = []
    if view.idle_since is not None:
        told.append(f"unused for {duration(now - view.idle_since)}")
    if view.gpu_idle_since is not None and view.gpu_idle_since != view.idle_since:
        told.append(f"its GPU {'' if told else 'unused '}for {duration(now - view.gpu_idle_since)}")
    return ", ".join(told)


def idle_time_words(idle: str) -> str:
    """After which time without use a session is stopped, as schema.IdleTime, in words."""
    return "not stopped, however long nothing uses it" if idle in {"never", ""} else f"stopped when unused for {idle}"


def continuation_words(continuation: str) -> str:
    """Whether a session goes on, as schema.Continuation, in words."""
    if continuation == "always":
        return "in another job when one has to end"
    if continuation in {"never", ""}:
        return "not: it stops when its job has to end"
    return f"in another job when one has to end, if it was used in the last {continuation}"


def _reason(reason: str) -> str:
    words = _REASONS.get(reason)
    return f"{reason} ({words})" if words else reason


def _place(ahead: int | None) -> str:
    """How many are before it."""
    if ahead is None:
        return ""
    return ", the first in its queue" if ahead == 0 else f", {ahead} {'job' if ahead == 1 else 'jobs'} before it"


def _expected(at: float, now: float) -> str:
    """Slurm's estimate; one that has passed means that Slurm will look again soon."""
    return f", expected to start {clock(at, now)} (in {duration(at - now)})" if at > now else ", expected to start now"


def doing(verb: str) -> str:
    """Return an operation's verb as a participle, such as `rolling back`."""
    kind = OPERATIONS.get(verb)
    return f"doing {verb}" if kind is None else kind.participle  # unknown: of a later version's controller


def pending(view: SessionView) -> OperationView | None:
    """What is being done to the session's volumes now, if anything is."""
    return view.operation if view.operation is not None and view.operation.status == "pending" else None


def as_of(at: float) -> str:
    """How old what was read of a running session's system is: `system_as_of` of a report."""
    then = f"as its job saved it at {clock(at)}" if at else "as it was before its first save"
    return f"outside of the home, this is the session {then}; what it has changed since is on its node"


def connection_event(view: ConnectionView) -> EventView:
    """A connection as something that happened to its session."""
    told = [
        f"from {view.peer}" if view.peer else "",
        f"through {view.gateway}" if view.gateway else "from the login node",
        f"with {view.fingerprint}" if view.fingerprint else "",
        "until now" if view.ended_at is None else f"for {duration(view.ended_at - view.began_at)}",
        f"{size(view.sent)} sent, {size(view.received)} received" if view.sent or view.received else "",
        view.end,
    ]
    detail = ", ".join(filter(None, told))
    return EventView(at=view.began_at, actor=view.user, session=view.session, action="connect", detail=detail)
