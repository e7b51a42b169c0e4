"""Reasons why a session does not allow an action now.

The controller decides: these rules only spare requests that it would refuse. Each reason follows the session's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.schema.states import LIVE, STARTABLE, SessionState
from broker.text.status import describe_operation, pending_operation

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView

_CANCELLABLE = frozenset({SessionState.SUBMITTING, SessionState.QUEUED, SessionState.STARTING, SessionState.READY})
_COPIED = STARTABLE | {SessionState.READY, SessionState.STOPPING}
_STOPS_FIRST = STARTABLE | LIVE


def exists(view: SessionView) -> str | None:
    """Allow it unless the session is being deleted."""
    return _unless(view, view.state not in {SessionState.DELETING, SessionState.DELETED})


def can_start(view: SessionView) -> str | None:
    """Allow a start of a stopped session."""
    if view.state in _CANCELLABLE:
        return f"it is already {'ready' if view.state is SessionState.READY else 'starting'}"
    return _unless(view, view.state in STARTABLE or pending_operation(view) is not None)


def can_stop(view: SessionView) -> str | None:
    """Allow a stop of a session that has a job or will start."""
    if view.state in {SessionState.STOPPED, SessionState.STOPPING} and pending_operation(view) is None:
        return f"it is already {view.state}"
    return exists(view)


def has_live_job(view: SessionView) -> str | None:
    """Allow it while the session has a job that does not end."""
    return _unless(view, view.state in _CANCELLABLE, "there is no job")


def has_running_job(view: SessionView) -> str | None:
    """Allow it while the session's job runs."""
    return _unless(view, view.state in {SessionState.STARTING, SessionState.READY}, "no job runs")


def can_cancel_resize(view: SessionView) -> str | None:
    """Allow it while a resize waits for its job."""
    return None if view.state is SessionState.READY and view.resizing else "no resize of it waits"


def is_stopped(view: SessionView) -> str | None:
    """Allow it without a job and without a pending operation."""
    hint = f"stop it first: `berth stop {view.name}`" if view.state in LIVE else ""
    return _unless_busy(view) or _unless(view, view.state in STARTABLE, hint)


def can_snapshot(view: SessionView) -> str | None:
    """Allow a snapshot of a stopped or ready session."""
    return _unless_busy(view) or _in_root_mode(view) or _unless(view, view.state in _COPIED)


def can_clone(view: SessionView) -> str | None:
    """Allow a clone. A clone of a snapshot is possible in every state, so only the deletion forbids it."""
    return _unless_busy(view) or _in_root_mode(view) or exists(view)


def can_change_volumes(view: SessionView) -> str | None:
    """Allow a rollback or a switch, which stop a running session first."""
    return _unless_busy(view) or _in_root_mode(view) or _unless(view, view.state in _STOPS_FIRST)


def can_connect(view: SessionView) -> str | None:
    """Allow a login, which starts a stopped session and waits."""
    if view.root:
        return f"only root can log in while it is in root mode; `berth stop {view.name}` ends that"
    return exists(view)


def _unless_busy(view: SessionView) -> str | None:
    operation = pending_operation(view)
    return None if operation is None else f"it is {describe_operation(operation.verb)}; wait for the end"


def _in_root_mode(view: SessionView) -> str | None:
    if not view.root:
        return None
    return f"it is in root mode; `berth stop {view.name}` ends that and discards its changes"


def _unless(view: SessionView, allowed: bool, hint: str = "") -> str | None:
    if allowed:
        return None
    return f"it is {view.state}{f'; {hint}' if hint else ''}"
