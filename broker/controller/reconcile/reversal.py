"""Undo an operation after which the session did not become ready in its job, as pure functions (ADR 137).

The next run of a kept job may be undone. If its container does not become ready, the job gives up the volumes again and
says so in its comment, and the operation is pending once more: this time it restores the former state. It does so once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.controller.reconcile.job_comment import read
from broker.controller.registry.manifest import CHANGING, ImageTarget
from broker.controller.registry.registry import EventEntry, JobChange
from broker.errors import BerthError
from broker.names import new_id
from broker.schema.sessions import SessionState
from broker.schema.states import NOT_READY
from broker.text.status import describe_operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.controller.registry.models import Session
    from broker.controller.registry.operation import Operation
    from broker.controller.registry.registry import RowChange
    from slurm.scheduler import Job

CHECK_LIMIT_S = 300
"""Seconds for the user's own check after an upgrade, as in job/container/checks.sh."""
WITHOUT_REASON = "its container did not start"

_AWAITED = frozenset({SessionState.SUBMITTING, SessionState.QUEUED, SessionState.STARTING})


def with_way_back(operation: Operation, before: Session, submission: int) -> Operation:
    """Return a completed operation that is undone if that submission, in a kept job, does not become ready."""
    former = ImageTarget.model_validate({name: getattr(before, name) for name in ImageTarget.model_fields})
    return operation.replace(trial=submission, former=former.columns(), reversal_id=new_id())


def can_be_undone(session: Session) -> bool:
    """Whether the session's present run is the first one after an operation in its kept job."""
    operation = session.last_operation
    return operation is not None and operation.status == "done" and 0 < operation.trial == session.submission


def returns_by_itself(session: Session) -> bool:
    """Whether the session's present run may be undone, whatever job it is in: also a new one after an upgrade."""
    operation = session.last_operation
    return can_be_undone(session) and (
        session.held_job_id is not None or (operation is not None and operation.kind.takes_version)
    )


def trial_settings(session: Session, ready_timeout: float, checks_s: float, *, in_held_job: bool) -> str:
    """Return the lines of run/job.env for a run that is undone unless it becomes ready; after an upgrade with checks.

    `ready_timeout` is in seconds, and so is `checks_s`, the time for the profile's checks.
    """
    operation = session.last_operation
    if operation is None or not can_be_undone(session) or not (in_held_job or operation.kind.takes_version):
        return ""
    if not operation.kind.takes_version:
        return f"BERTH_READY_LIMIT={ready_timeout:.0f}\n"
    return f"BERTH_READY_LIMIT={ready_timeout + checks_s + CHECK_LIMIT_S:.0f}\nBERTH_CHECKS=yes\n"


def has_failed_to_start(session: Session, job: Job) -> bool:
    """Whether the session waits for a run of its job, and the job reports that this run did not become ready."""
    announcement = read(job)
    return (
        session.state in _AWAITED
        and job.state.runs
        and announcement is not None
        and announcement.not_ready
        and (announcement.submission, announcement.restarts) == (session.submission, job.restarts)
    )


def after_failed_start(
    session: Session, values: Mapping[str, Any], columns: Mapping[str, Any], now: float
) -> RowChange:
    """Return the change of a session whose job reports that its run did not become ready.

    The job, which waits, is held for the reversal. Without an operation that could be undone the session has failed.
    """
    operation = session.last_operation
    if operation is None or not can_be_undone(session):
        reason = f"{WITHOUT_REASON}; `berth logs {session.name}` has the end of its log"
        ended = {"outcome": "FAILED", "reason": reason, "ended_at": now, "attempted_at": None}
        failed = {"state": SessionState.FAILED, "reason": reason, "root": False}
        return JobChange({**values, **failed}, EventEntry("berth", "failed", reason), job={**columns, **ended})
    reason = f"{WITHOUT_REASON}; the {operation.verb} is undone"
    record = _as_reversing(operation, now).replace(in_job=True).record()
    waiting = {"state": SessionState.STOPPING, "reason": reason, "root": False, "operation": record}
    return JobChange({**values, **waiting}, EventEntry("berth", "not-ready", reason), job=columns)


def after_refusal(session: Session, message: str, now: float) -> RowChange:
    """Return the change of a session whose next run could not be requested: its kept job waits for the reversal."""
    operation = session.last_operation
    assert operation is not None, "can_be_undone"
    record = _as_reversing(operation, now).replace(because=message, state=SessionState.STOPPED, why=message).record()
    values = {"state": SessionState.CHANGING, "reason": CHANGING, "root": False, "operation": record}
    job = {"outcome": NOT_READY, "reason": message, "ended_at": now, "attempted_at": None}
    return JobChange(values, EventEntry("berth", "refused", f"{message}; the {operation.verb} is undone"), job=job)


def _as_reversing(operation: Operation, now: float) -> Operation:
    return operation.replace(status="pending", reversing=True, reversed_at=now, start=True, ran=True)


def because_of(operation: Operation) -> str:
    """Return why the operation is undone."""
    return operation.because or WITHOUT_REASON


def as_reversed(operation: Operation, session: Session) -> Operation:
    """Return the operation after its reversal: it has failed, and the session is as before."""
    message = f"{session.name} did not become ready after {describe_operation(operation.verb)}: {because_of(operation)}"
    then = f"; it starts again as it was before the {operation.verb}" if operation.start else ""
    error = BerthError(f"{message}{then}", hint=f"`berth logs {session.name}` shows the log of both starts")
    return operation.as_failed(error).replace(reversing=False, reversed=True, trial=0, undo="")


def as_irreversible(operation: Operation, name: str, error: BerthError) -> Operation:
    """Return an operation that could not be undone: the session `name` is not started again, and has failed."""
    message = f"{because_of(operation)}; the {operation.verb} could not be undone: {error.message}"
    again = type(error)(message, hint=error.hint)
    why = f"{message}; `berth snapshots {name}` lists the states to which it can return"
    return operation.as_failed(again).replace(reversing=False, trial=0, start=False, state=SessionState.FAILED, why=why)
