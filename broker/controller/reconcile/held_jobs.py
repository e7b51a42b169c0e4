"""Keep a session's job while the session is stopped for an operation: the job gives up the volumes, and waits.

The operation then runs as without a job, and the session's next submission begins in the held job instead of a new one
(ADR 136). Where a job cannot be held, it is cancelled, and the session waits in the queue.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError, to_user_error
from broker.controller.reconcile.observation import without_job
from broker.controller.reconcile.retry import Backoff
from broker.controller.reconcile.reversal import because_of
from broker.controller.registry.registry import EventEntry, JobChange
from broker.failpoints import failpoint
from broker.launcher.arguments import HoldArguments
from broker.schema.sessions import SessionState
from broker.schema.states import HELD, NOT_READY
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    import asyncio

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.end_notice import EndNoticeWriter
    from broker.controller.reconcile.operation_runner import OperationRunner
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.operation import Operation
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.wakeup import ChangeNotifier
    from broker.errors import BerthError
    from slurm.scheduler import Job

log = logging.getLogger(__name__)

LEAST_LEFT_S = 120.0
"""Seconds of the job's time limit that must be left: a shorter rest is not worth a start."""
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 10.0
"""Seconds before the next request after one without a clear answer: the first pause, doubled up to the maximum."""
HOLD_TIMEOUT_S = 600.0
"""Seconds for which a job may save its system volume and end its processes before it is cancelled instead."""


def can_be_held(session: Session, now: float) -> bool:
    """Whether the session's job can carry the session's next run: it runs, no successor waits, and time is left."""
    ends_at = session.job.ends_at
    ready = session.state is SessionState.READY and not session.successor
    return ready and (ends_at is None or ends_at - now > LEAST_LEFT_S)


def should_hold(session: Session, job: Job) -> bool:
    """Whether the session is stopped for an operation in its job."""
    operation = session.pending
    return session.state is SessionState.STOPPING and operation is not None and operation.in_job and job.state.runs


def is_held_job(session: Session, job: Job) -> bool:
    """Whether the job waits for the session's next run."""
    waits = session.state in {SessionState.CHANGING, SessionState.SUBMITTING}
    return waits and session.held_job_id == job.id


class JobHolder:
    """Holds jobs, one task for each session. A restarted controller repeats the request with the operation's id."""

    def __init__(
        self,
        *,
        registry: AsyncRegistry,
        launcher: LauncherClient,
        end_notices: EndNoticeWriter,
        operations: OperationRunner,
        changes: ChangeNotifier,
    ) -> None:
        self._registry = registry
        self._launcher = launcher
        self._end_notices = end_notices
        self._operations = operations
        self._changes = changes
        self._running = SingleFlight[str, "Session"](self._note_end)
        self._backoff = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S)

    def hold(self, session: Session) -> None:
        """Start to hold the session's job, unless that is under way or its next attempt is later."""
        if self._backoff.is_due(session.id):
            self._running.join(session.id, lambda: self._attempt(session.id))

    async def close(self) -> None:
        """Cancel the running attempts; the next controller repeats them."""
        await self._running.close()

    def _note_end(self, session_id: str, task: asyncio.Task[Session]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._backoff.record_failure(session_id)
            log.error("hold interrupted id=%s", session_id, exc_info=error)
        self._changes.notify(session_id)

    async def _attempt(self, session_id: str) -> Session:
        session = await self._registry.require(session_id)  # the caller's may be of before the last attempt
        operation, job = session.pending, session.job
        waits = session.state is SessionState.STOPPING and operation is not None and operation.in_job
        if not waits or operation is None or job.job_id is None:
            return session
        await self._end_notices.write([session])
        arguments = HoldArguments(
            session=session.id,
            operation=operation.request_id,
            submission=session.submission,
            job_id=job.job_id,
            wait=HOLD_TIMEOUT_S,
        )
        try:
            message = await self._launcher.hold(session.owner, arguments)
        except LauncherError as error:
            if error.unclear and clock.now() - operation.waits_since < HOLD_TIMEOUT_S:
                self._backoff.record_failure(session.id)
                log.info("hold will be repeated %s job=%d error=%s", session.log_name, job.job_id, error.message)
                return session
            self._backoff.forget(session.id)
            if error.kind == "space" and not operation.reversing:
                log.info("job not held %s job=%d error=%s", session.log_name, job.job_id, error.message)
                return await self._registry.update(session.id, _runs_on(operation, to_user_error(error, session.name)))
            log.info("job cancelled instead of held %s job=%d error=%s", session.log_name, job.job_id, error.message)
            return await self._registry.update(session.id, _give_up_hold(operation.id))
        self._backoff.forget(session.id)
        failpoint("hold.answered")
        session = await self._registry.update(session.id, _record_hold(operation, job.job_id, message, clock.now()))
        self._operations.resume([session])  # now, since the user waits: the next tick would do it too
        return session


def _record_hold(operation: Operation, job_id: int, message: str, now: float) -> Transition:
    """Record that the job has given up the volumes: the operation runs next. `message`: of a run that is undone."""

    def decide(current: Session) -> RowChange | None:
        pending = current.pending
        waits = pending is not None and pending.id == operation.id and pending.in_job
        if current.state is not SessionState.STOPPING or pending is None or not waits:
            return None  # stopped meanwhile, or the job has ended: then the session stops as usual
        reason, outcome = "", HELD
        if pending.reversing:
            pending = pending.replace(because=message)
            reason, outcome = f"the {pending.verb} was undone: {because_of(pending)}", NOT_READY
        columns: dict[str, Any] = {"outcome": outcome, "ended_at": now, "missing_since": None, "attempted_at": None}
        former = {"state": SessionState.STOPPED, "reason": reason}
        change = JobChange(*without_job(current, former, columns, None, now, operation=pending))
        entry = EventEntry("berth", "held", f"job {job_id} waits for the next run of the session")
        return change._replace(values={**change.values, "held_job_id": job_id}, entry=entry)

    return decide


def _runs_on(operation: Operation, error: BerthError) -> Transition:
    """Record that the operation failed before the job knew of it: the session is as before."""

    def decide(current: Session) -> RowChange | None:
        pending = current.pending
        if pending is None or pending.id != operation.id or current.state is not SessionState.STOPPING:
            return None
        values = {"state": SessionState.READY, "reason": "", "operation": pending.as_failed(error).record()}
        return values, EventEntry("berth", f"{pending.verb}-failed", error.message)

    return decide


def _give_up_hold(operation: str) -> Transition:
    def decide(current: Session) -> RowChange | None:
        pending = current.pending
        if pending is None or pending.id != operation:
            return None
        entry = EventEntry("berth", "not-held", "the job is cancelled, and another one is requested")
        return {"operation": pending.replace(in_job=False).record()}, entry

    return decide
