"""Run the pending volume operations, at most one task for each session.

Any caller may join that task. A restarted controller resumes from the session's row alone. A clear answer of the
launcher ends the operation. After an unclear one the request is repeated with the same id. A failed operation leaves
the session unchanged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError, to_user_error
from broker.controller.reconcile.operation_steps import OperationExecutor, OperationResult, former_name
from broker.controller.reconcile.retry import Backoff
from broker.controller.reconcile.reversal import as_irreversible, as_reversed, because_of, with_way_back
from broker.controller.reconcile.succession import next_submission
from broker.controller.reconcile.upgrading import columns_after_failure, columns_after_reversal
from broker.controller.registry.registry import EventEntry, JobChange
from broker.errors import ConflictError
from broker.failpoints import failpoint
from broker.schema.sessions import SessionState
from broker.service.lasting_states import LastingStates
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.maintenance import Maintenance
    from broker.controller.reconcile.manifests import ManifestWriter
    from broker.controller.reconcile.own_changes import OwnChangesFinder
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.operation import Operation
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.wakeup import ChangeNotifier
    from broker.errors import BerthError

log = logging.getLogger(__name__)

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 60.0
"""Seconds before an operation without a clear answer is repeated: the first pause, doubled up to the maximum."""
MAX_TRIES = 20
"""Processes of the launcher that may crash or time out in one operation before it fails: about a quarter of an hour."""
BUSY_TIMEOUT_S = 90.0
"""Seconds for which an ended job may still hold the volumes, or appear to run, before the operation fails: more than
Slurm's KillWait and the time that processes with open files on a file server take to end."""


class OperationRunner:
    """Runs operations, one task for each session."""

    def __init__(
        self,
        *,
        registry: AsyncRegistry,
        launcher: LauncherClient,
        manifests: ManifestWriter,
        submitter: Submitter,
        maintenance: Maintenance,
        own_changes: OwnChangesFinder,
        changes: ChangeNotifier,
    ) -> None:
        self._registry = registry
        self._executor = OperationExecutor(
            launcher, manifests, own_changes=own_changes, note=self._note, store_volumes=self._store_volumes
        )
        self._manifests = manifests
        self._submitter = submitter
        self._maintenance = maintenance
        self._changes = changes
        self._running = SingleFlight[tuple[str, str], "Session"](self._note_end)
        """By the ids of session and operation. A new operation does not wait for what an attempt at the one before it
        does after its result is recorded; that needs no launcher."""
        self._lasting = LastingStates(log)
        self._backoff = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S)
        self._tries: dict[str, int] = {}
        """The number of crashed or timed-out processes of the launcher, by the operation's id."""
        self._busy_since: dict[str, float] = {}
        """The time of the first `busy` answer, by the operation's id."""

    def under_way(self, session_id: str) -> bool:
        """Whether this process is running the session's operation."""
        return any(session == session_id for session, _ in self._running)

    def resume(self, sessions: Iterable[Session]) -> None:
        """Run the operations of sessions that need only the launcher now, unless their next attempt is later."""
        for session in sessions:
            if can_run(session) and _key(session) not in self._running and self._backoff.is_due(session.id):
                self.run(session)

    def run(self, session: Session) -> asyncio.Task[Session]:
        """Start the session's operation, or join the running attempt.

        The task returns the current session; its operation may still be pending. It does nothing if the session has
        changed so that the operation cannot run.
        """
        return self._running.join(_key(session), lambda: self._attempt(*_key(session)))

    async def close(self) -> None:
        """Cancel the running attempts; the next controller repeats them with the same ids."""
        await self._running.close()

    def _note_end(self, key: tuple[str, str], task: asyncio.Task[Session]) -> None:
        session_id, _ = key
        if not task.cancelled() and (error := task.exception()) is not None:
            self._backoff.record_failure(session_id)
            log.error("operation interrupted session=%s", session_id, exc_info=error)
        self._changes.notify(session_id)

    async def _attempt(self, session_id: str, operation_id: str) -> Session:
        session = await self._registry.require(session_id)
        operation = session.pending
        if operation is None or operation.id != operation_id or not can_run(session):
            return session
        if session.state in {SessionState.QUEUED, SessionState.STARTING}:
            error = ConflictError(
                f"Slurm restarted the job of {session.name} meanwhile", hint="try again when it is ready"
            )
            return await self._fail(session, operation, error)
        try:
            result = await self._executor.do(session, operation)
        except LauncherError as error:
            if self._may_become_clear(operation, error) or self._may_pass(session, operation, error):
                text = f"{operation.verb} will be repeated {session.log_name} error={error.message}"
                self._lasting.report(operation.id, logging.INFO, text)
                self._backoff.record_failure(session.id)
                return session
            return await self._fail(session, operation, to_user_error(error, _name_of_data(session, operation)))
        failpoint("reversal.done" if operation.reversing else f"{operation.verb}.done")
        succeeded = _record_reversal if operation.reversing else _record_success
        return await self._conclude(session, succeeded(operation, result))

    def _may_become_clear(self, operation: Operation, error: LauncherError) -> bool:
        """Whether to repeat the request: always while the launcher or Slurm is away, MAX_TRIES times if the launcher's
        child crashes or times out. If it has completed after all, the next operation finds that in volumes.json.
        """
        if error.kind not in {"crashed", "timed-out"}:
            return error.unclear
        self._tries[operation.id] = self._tries.get(operation.id, 0) + 1
        return self._tries[operation.id] < MAX_TRIES

    def _may_pass(self, session: Session, operation: Operation, error: LauncherError) -> bool:
        """Whether a job that is ending holds the volumes, or could not copy them any more.

        When the controller sees its end, the snapshot is taken without the job.
        """
        dying = operation.kind.job == "optional" and session.state is not SessionState.CHANGING
        if error.kind != "busy" and not (error.kind == "ended" and dying):
            return False
        return clock.monotonic() - self._busy_since.setdefault(operation.id, clock.monotonic()) < BUSY_TIMEOUT_S

    async def _fail(self, session: Session, operation: Operation, error: BerthError) -> Session:
        log.info("%s failed %s error=%s", operation.verb, session.log_name, error.message)
        try:
            await self._executor.undo(session, operation)
        except LauncherError as trouble:
            if trouble.unclear:
                self._backoff.record_failure(session.id)
                return session
            log.warning(
                "manifest still has the failed %s %s error=%s", operation.verb, session.log_name, trouble.message
            )
        self._maintenance.schedule_gc(session.owner)  # removes what the operation had made
        try:
            return await self._conclude(
                session, _record_failure(operation, session.state, error, former_name(operation))
            )
        except ConflictError:  # another session has the former name meanwhile
            kept = type(error)(f"{error.message}; the session keeps the name {session.name}", hint=error.hint)
            return await self._conclude(session, _record_failure(operation, session.state, kept, {}))

    async def _conclude(self, session: Session, decide: Transition) -> Session:
        current = await self._registry.update(session.id, decide)
        self._manifests.forget(session.id)
        self._backoff.forget(session.id)
        if current.last_operation is not None:
            self._busy_since.pop(current.last_operation.id, None)
            self._tries.pop(current.last_operation.id, None)
        if current.state is SessionState.SUBMITTING and not self._submitter.under_way(current.id):
            self._submitter.submit(current)
        self._maintenance.flatten_if_deep(current)
        return current

    async def _store_volumes(self, session_id: str, volumes: dict[str, Any]) -> None:
        await self._registry.update(session_id, lambda _: ({"volumes": volumes}, None))

    async def _note(self, session: Session, operation: Operation, arguments: dict[str, Any]) -> Operation:
        def decide(current: Session) -> RowChange | None:
            if current.pending is None or current.pending.id != operation.id:
                return None
            pending = current.pending
            return {"operation": pending.replace(arguments=pending.arguments | arguments).record()}, None

        await self._registry.update(session.id, decide)
        return operation.replace(arguments=operation.arguments | arguments)


def can_run(session: Session) -> bool:
    """Whether the session has a pending operation that needs only the launcher, and not the end of a job."""
    operation = session.pending
    if operation is None:
        return False
    runs = {SessionState.QUEUED, SessionState.STARTING, SessionState.READY}
    return session.state is SessionState.CHANGING or (session.state in runs and not operation.kind.needs_stopped)


def _key(session: Session) -> tuple[str, str]:
    return session.id, "" if session.pending is None else session.pending.id


def _name_of_data(session: Session, operation: Operation) -> str:
    has_own_source = operation.kind.has_source and not operation.receives
    return str(operation.arguments["name"]) if has_own_source else session.name


def _record_success(operation: Operation, result: OperationResult) -> Transition:
    def decide(current: Session) -> RowChange | None:
        pending = current.pending
        if pending is None or pending.id != operation.id:
            return None
        done = pending.as_done(result.message, undo=result.undo, snapshot=result.snapshot)
        values, job = result.values | {"operation": done.record()}, dict[str, Any]()
        if current.state is SessionState.CHANGING:
            kept = pending.replace(state=SessionState.STOPPED, why="") if operation.kind.resets_state else pending
            then, job = _afterwards(current, kept, root=operation.kind.enters_root_mode)
            values |= then
            if operation.kind.takes_version:  # also of a session that a user starts later
                done = with_way_back(done, current, then.get("submission", current.submissions + 1))
            elif current.held_job_id is not None and "submission" in then:
                done = with_way_back(done, current, then["submission"])
            values["operation"] = done.record()
        return JobChange(values, EventEntry("berth", f"{operation.verb}-done", result.message), job=job)

    return decide


def _record_reversal(operation: Operation, result: OperationResult) -> Transition:
    """Record that the operation was undone: the session starts again as it was before, once."""

    def decide(current: Session) -> RowChange | None:
        pending = current.pending
        if pending is None or pending.id != operation.id:
            return None
        record = as_reversed(pending, current)
        then, job = _afterwards(current, pending)
        entry = EventEntry("berth", f"{operation.verb}-undone", record.message)
        held = columns_after_reversal(current, pending, because_of(pending), clock.now())
        return JobChange(result.values | held | {"operation": record.record()} | then, entry, job=job)

    return decide


def _record_failure(
    operation: Operation, observed: SessionState, error: BerthError, name: dict[str, Any]
) -> Transition:
    """Record the failure; `name`: the session's name after it."""

    def decide(current: Session) -> RowChange | None:
        pending = current.pending
        if pending is None or pending.id != operation.id:
            return None
        if observed is not SessionState.CHANGING and current.state is SessionState.CHANGING:
            return None  # its job has ended meanwhile: the operation runs without the job
        if pending.reversing:
            pending = as_irreversible(pending, current.name, error)
        record = pending if pending.status == "failed" else pending.as_failed(error)
        values: dict[str, Any] = {"operation": record.record(), **columns_after_failure(pending, record.message)}
        job: dict[str, Any] = {}
        if current.state is SessionState.CHANGING and operation.kind.creates_session:
            values |= {"state": SessionState.DELETED, "reason": ""} | name
        elif current.state is SessionState.CHANGING:
            start = pending.start and (pending.ran or not pending.kind.enters_root_mode)
            then, job = _afterwards(current, pending.replace(start=start))
            values |= then | name
        return JobChange(values, EventEntry("berth", f"{operation.verb}-failed", record.message), job=job)

    return decide


def _afterwards(current: Session, operation: Operation, *, root: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of a CHANGING session after its operation, and those of its next job."""
    if operation.start:
        values, job = next_submission(current)
        return values | {"root": root}, job | {
            name: operation.arguments[name] for name in ("gpus",) if name in operation.arguments
        }
    return {"state": operation.state, "reason": operation.why, "root": False, "held_job_id": None}, {}
