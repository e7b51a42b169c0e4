"""The outcome of an action as text: progress while it runs, the result, and how to undo it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BerthError, from_reason
from broker.format import format_duration, format_time
from broker.schema.states import MOVING, SessionState
from broker.text import question, status
from broker.text.session import describe_connect_policy, describe_stop_time, state_line
from broker.text.status import pending_operation

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView

_AWAITED_STATES = MOVING - {SessionState.QUEUED}
"""States that end soon. A session may stay queued for days: then the list shows the rest."""

_STATE_ACTIONS = frozenset({"new", "start", "stop", "restart", "resize"})


def is_complete(action_id: str, view: SessionView) -> bool:
    """Whether nothing of the action is left to wait for."""
    if pending_operation(view) is not None:
        return False
    return action_id not in {*_STATE_ACTIONS, "rollback", "switch", "clone"} or view.state not in _AWAITED_STATES


def failed_operation(action_id: str, view: SessionView, operation_id: str | None) -> BerthError | None:
    """Return the error of the operation that the action has begun; None if it has not failed."""
    operation = view.operation
    if operation is not None and operation.id == operation_id and operation.status == "failed":
        return from_reason(operation.reason, operation.message, operation.hint)
    if action_id in _STATE_ACTIONS and view.state is SessionState.FAILED:
        return BerthError(
            f"{view.name} failed: {view.reason or view.outcome or 'its job ended'}",
            hint=f"`berth logs {view.name}` shows the job's log; `berth start {view.name}` tries again",
        )
    return None


def describe_result(action_id: str, view: SessionView, operation_id: str | None, now: float) -> str:
    """Describe what the action has done, and how to undo it."""
    operation = view.operation
    if operation is not None and operation.id == operation_id and operation.message:
        return operation.message + (f"; to undo: {operation.undo}" if operation.undo else "")
    match action_id:
        case "delete" | "purge":
            text = question.describe_deletion(view, complete=view.state is SessionState.DELETED)
        case "extend" if view.ends_at is not None:
            left = format_duration(view.ends_at - now)
            text = f"{view.name}: the job ends at {format_time(view.ends_at, now)} (in {left})"
        case "cancel-resize":
            text = f"{view.name} keeps job {view.job_id}"
        case "stop-at":
            text = f"{view.name} {describe_stop_time(view, now) or 'has no stop time'}"
        case "policies":
            end = status.describe_continuation(view.continuation)
            idle = status.describe_idle_policy(view.idle)
            text = f"{view.name}: {describe_connect_policy(view)}; {end}; {idle}"
        case _:
            text = state_line(view, now)
    return text


def describe_error(error: BerthError) -> str:
    """Return an error's message and its hint."""
    return f"{error.message}{f'. Hint: {error.hint}' if error.hint else ''}"
