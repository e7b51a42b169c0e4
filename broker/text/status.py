"""Describe a session's state, deadlines and policies as text, for the command line and for ssh users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_duration, format_size, format_time
from broker.schema.operations import OPERATIONS
from broker.schema.states import SessionState

if TYPE_CHECKING:
    from broker.schema.connections import ConnectionView
    from broker.schema.sessions import OperationView, SessionView
    from broker.schema.site import EventView

END_NOTICE_S = 600.0
"""Seconds before a job's time limit at which Berth begins to show the deadline."""

_CONTINUING = frozenset({SessionState.SUBMITTING, SessionState.QUEUED, SessionState.STARTING, SessionState.READY})
"""States of a session that continues after an interruption."""

_REASONS = {
    "AssocGrpCpuLimit": "your account uses as many processors as it may",
    "AssocGrpGRES": "your account uses as many GPUs as it may",
    "AssocMaxJobsLimit": "you have as many jobs as your account allows",
    "BeginTime": "its start time has not come",
    "Dependency": "the session's previous job is still ending",
    "JobHeldAdmin": "an administrator holds it",
    "JobHeldUser": "you hold it",
    "Licenses": "waiting for a licence",
    "NodeDown": "a node it needs is down",
    "PartitionConfig": "it asks for more than the partition has",
    "PartitionDown": "the partition is down",
    "PartitionTimeLimit": "it asks for more time than the partition allows",
    "Priority": "jobs with a higher priority are waiting",
    "QOSMaxGRESPerUser": "you use as many GPUs as your QOS allows",
    "QOSMaxJobsPerUserLimit": "you have as many jobs as your QOS allows",
    "ReqNodeNotAvail": "a node it needs is down or reserved",
    "Reservation": "its reservation has not begun",
    "Resources": "waiting for free resources",
}
"""Explanations of Slurm's most common reasons for a pending job; see "Job Reasons" in Slurm's manual."""


def describe_state(view: SessionView, now: float) -> str:
    """Describe the state, such as `queued: Resources (waiting for free resources), expected to start 12:30`."""
    operation = pending_operation(view)
    if operation is None:
        return _bare_state(view, now)
    if view.state is SessionState.CHANGING:
        return describe_operation(operation.verb)
    then = "; then " if view.state is SessionState.STOPPING else "; "
    return _bare_state(view, now) + then + describe_operation(operation.verb)


def _bare_state(view: SessionView, now: float) -> str:
    because = f": {_reason(view.reason, requeued=bool(view.interruption))}" if view.reason else ""
    if view.keeps_job:
        return "starting again in its job"
    if view.state is SessionState.SUBMITTING:
        return f"submitting the job to Slurm{because}"
    if view.state is SessionState.QUEUED:
        expected = _describe_estimate(view.expected_start_at, now) if view.expected_start_at is not None else ""
        again = f" again after an interruption ({view.interruption})" if view.interruption else ""
        return f"queued{again}{because}{_position(view.ahead)}{expected}"
    if view.state is SessionState.STARTING:
        return view.reason or "starting"
    if view.state is SessionState.READY and view.endpoint:
        return "; ".join(filter(None, (f"ready on {view.endpoint.node}", *describe_notices(view, now))))
    return f"{view.state}{because}"


def describe_notices(view: SessionView, now: float) -> list[str]:
    """Return what users of a ready session should know: of its node, of a resize, and of its next stop or end."""
    return [text for text in (describe_node(view, now), describe_resize(view), describe_deadline(view, now)) if text]


def describe_resize(view: SessionView) -> str:
    """Describe the wait of a ready session for a job with other resources; empty without one."""
    if view.endpoint is None or not view.resizing:
        return ""
    job = "a job" if view.next_job_id is None else f"job {view.next_job_id}"
    when = " when that runs" if view.beside else ""
    because = f"; it waits: {_reason(view.next_job_reason)}" if view.next_job_reason else ""
    return f"moves to {job} with other resources{when}{because}"


def describe_node(view: SessionView, now: float) -> str:
    """Describe the condition of a ready session's node; empty if jobs can start there.

    For example: `node c1 takes no new jobs (new kernel); the job continues until 18:05 (in 3 h)`.
    """
    if view.endpoint is None or not view.node_condition:
        return ""
    return describe_node_condition(view.endpoint.node, view.node_condition, view.node_reason, view.ends_at, now)


def describe_node_condition(
    node: str, condition: str, reason: str, ends_at: float | None, now: float | None = None
) -> str:
    """Describe a value of NodeCondition. With `now`, the time left until the job's end is added."""
    because = f" ({reason})" if reason else ""
    if condition == "draining":
        end = "its end" if ends_at is None else format_time(ends_at, now)
        end = end if ends_at is None or now is None else _format_deadline(ends_at, now)
        return f"node {node} takes no new jobs{because}; the job continues until {end}"
    if condition == "not responding":
        return f"node {node} does not answer Slurm{because}; if that lasts, Slurm requeues the job"
    if condition == "down":
        return f"node {node} is down{because}; Slurm requeues or ends the job"
    return f"node {node} takes new jobs again"


def describe_interruption(view: SessionView, now: float) -> str:
    """Describe why and when the session's previous run ended; empty if nothing has interrupted the session."""
    if not view.interruption or view.state not in _CONTINUING:
        return ""
    at = "" if view.interrupted_at is None else f"{format_time(view.interrupted_at, now)}: "
    return f"{at}{view.interruption}; files are kept, running programs were ended"


def describe_deadline(view: SessionView, now: float) -> str:
    """Describe the next stop or end of the job, such as `will stop at 18:05 (in 4 min) as scheduled`.

    Empty if the job continues for more than END_NOTICE_S.
    """
    if view.endpoint is not None and view.idle_stop_at is not None:
        since = "" if view.idle_since is None else f" since {format_time(view.idle_since, now)}"
        return f"idle{since}; will stop at {_format_deadline(view.idle_stop_at, now)} unless used"
    if view.endpoint is not None and view.stop_at is not None and view.stop_at - now <= END_NOTICE_S:
        return f"will stop at {_format_deadline(view.stop_at, now)} as scheduled"
    if view.endpoint is None or view.ends_at is None or view.ends_at - now > END_NOTICE_S:
        return ""
    return f"job ends at {_format_deadline(view.ends_at, now)}, {describe_job_end(view)}"


def describe_job_end(view: SessionView) -> str:
    """Describe what the session does when its job reaches its time limit."""
    if view.next_job_id is not None:
        return f"then the session continues in job {view.next_job_id}"
    if view.continuation == "always":
        return "then the session continues in another job"
    if view.continuation in {"never", ""}:
        return "then the session stops and keeps its files"
    return f"then the session continues in another job if used in the last {view.continuation}"


def describe_idle(view: SessionView, now: float) -> str:
    """Describe how long the session and its GPU have been idle: `idle for 3 h, GPU for 5 h`; empty if they are used."""
    parts = []
    if view.idle_since is not None:
        parts.append(f"idle for {format_duration(now - view.idle_since)}")
    if view.gpu_idle_since is not None and view.gpu_idle_since != view.idle_since:
        parts.append(f"GPU {'' if parts else 'idle '}for {format_duration(now - view.gpu_idle_since)}")
    return ", ".join(parts)


def describe_idle_policy(idle: str) -> str:
    """Describe a value of schema.IdleTime."""
    return "not stopped when idle" if idle in {"never", ""} else f"stopped when idle for {idle}"


def describe_continuation(continuation: str) -> str:
    """Describe a value of schema.Continuation, such as `stops when its job has to end`."""
    if continuation in {"never", ""}:
        return "stops when its job has to end"
    text = "continues in a new job when its job has to end"
    return text if continuation == "always" else f"{text}, if used in the last {continuation}"


def _format_deadline(at: float, now: float) -> str:
    return f"{format_time(at, now)} (in {format_duration(at - now)})"


def _reason(reason: str, *, requeued: bool = False) -> str:
    text = "Slurm's pause after a requeue" if requeued and reason == "BeginTime" else _REASONS.get(reason)
    return f"{reason} ({text})" if text else reason


def _position(ahead: int | None) -> str:
    if ahead is None:
        return ""
    return "; first in line" if ahead == 0 else f"; {ahead} {'job' if ahead == 1 else 'jobs'} ahead"


def _describe_estimate(at: float, now: float) -> str:
    """Describe Slurm's estimate. An estimate in the past means that Slurm will soon try again."""
    return (
        f", expected to start {format_time(at, now)} (in {format_duration(at - now)})"
        if at > now
        else ", expected to start now"
    )


def describe_operation(verb: str) -> str:
    """Return an operation's verb as a participle, such as `rolling back`."""
    kind = OPERATIONS.get(verb)
    return f"doing {verb}" if kind is None else kind.participle  # unknown: of a later version's controller


def pending_operation(view: SessionView) -> OperationView | None:
    """Return the operation that is changing the session's volumes now, if there is one."""
    return view.operation if view.operation is not None and view.operation.status == "pending" else None


def describe_save_time(at: float) -> str:
    """Describe how old a report about a running session's system is; `at` is its `system_as_of`."""
    state = f"the state that the job saved at {format_time(at)}" if at else "the state before the job's first save"
    return f"outside the home, this is {state}; later changes are on the node"


def connection_event(view: ConnectionView) -> EventView:
    """Return the event that describes a connection."""
    from broker.schema.connections import NOT_FOLLOWED  # noqa: PLC0415 - it takes long to import
    from broker.schema.site import EventView  # noqa: PLC0415 - it takes long to import

    seconds = None if view.ended_at is None else view.ended_at - view.began_at
    how_long = "until now" if seconds is None else f"for {format_duration(seconds)}"
    parts = [
        f"from {view.peer}" if view.peer else "",
        f"through {view.gateway}" if view.gateway else "from the login node",
        f"with {view.fingerprint}" if view.fingerprint else "",
        "" if view.end == NOT_FOLLOWED else how_long,
        f"{format_size(view.sent)} sent, {format_size(view.received)} received" if view.sent or view.received else "",
        view.end,
    ]
    detail = ", ".join(filter(None, parts))
    return EventView(at=view.began_at, actor=view.user, session=view.session, action="connect", detail=detail)
