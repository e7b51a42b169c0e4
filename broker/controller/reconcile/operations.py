"""Run the pending volume operations, at most one task for each session.

Any caller may join that task. A restarted controller resumes from the session's row alone. An answer of the launcher's
that is clear ends the operation; one that is not has it asked again, with the same id, as long as it takes. What fails
leaves the session as it was.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from broker.controller.launcher_client.errors import LauncherError, to_user_error
from broker.controller.reconcile.operation_steps import OperationExecutor, OperationResult
from broker.controller.reconcile.retry import Backoff
from broker.controller.reconcile.succession import next_submission
from broker.controller.registry.registry import EventEntry, JobChange
from broker.errors import ConflictError
from broker.failpoints import failpoint
from broker.schema.sessions import SessionState
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.maintenance import Maintenance
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.operation import Operation
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.wakeup import ChangeNotifier
    from broker.errors import BerthError

log = logging.getLogger(__name__)

FIRST_PAUSE, LAST_PAUSE = 0.5, 60.0
"""Seconds before an operation without a clear answer is asked for again: the first pause, then doubling up to the
last."""
TRIES = 20
"""Workers that may die or be too slow over one operation before it is given up: a quarter of an hour of tries."""
BUSY = 90.0
"""Seconds that a job which has ended may still have the volumes open, or seem to run, before the operation is given up:
more than Slurm's KillWait and the time that processes on a file server take to die."""


class OperationRunner:
    """Runs operations, each session's at most once at a time."""

    def __init__(
        self,
        *,
        registry: AsyncRegistry,
        launcher: LauncherClient,
        submitter: Submitter,
        upkeep: Maintenance,
        changes: ChangeNotifier,
    ) -> None:
        self._registry = registry
        self._deeds = OperationExecutor(launcher, note=self._note, tell=self._tell)
        self._submitter = submitter
        self._upkeep = upkeep
        self._changes = changes
        self._running = SingleFlight[str, "Session"](self._done)
        self._backoff = Backoff(FIRST_PAUSE, LAST_PAUSE)
        self._tries: dict[str, int] = {}
        """Workers that have died over an operation, or were too slow."""
        self._busy_since: dict[str, float] = {}
        """By operation."""

    def under_way(self, session_id: str) -> bool:
        """Whether this process is carrying out the session's operation right now."""
        return session_id in self._running

    def resume(self, sessions: Iterable[Session]) -> None:
        """Go on with the operations of those that can be gone on with, and whose time has come."""
        for session in sessions:
            if can_go_on(session) and not self.under_way(session.id) and self._backoff.due(session.id):
                self.carry_out(session)

    def carry_out(self, session: Session) -> asyncio.Task[Session]:
        """Begin with the session's operation, or join the attempt under way; the task returns the session as it then
        is, its operation perhaps still pending. Nothing is done if the session has moved on since it was seen.
        """
        return self._running.join(session.id, lambda: self._attempt(session.id))

    async def close(self) -> None:
        """End the attempts under way: the next controller asks for the same, and is told what has come of it."""
        await self._running.close()

    def _done(self, session_id: str, task: asyncio.Task[Session]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._backoff.failed(session_id)
            log.error("the operation on %s was interrupted", session_id, exc_info=error)
        self._changes.notify()

    async def _attempt(self, session_id: str) -> Session:
        session = await self._registry.require(session_id)
        intent = session.pending
        if intent is None or not can_go_on(session):
            return session
        if session.state in {SessionState.QUEUED, SessionState.STARTING}:
            error = ConflictError(
                f"{session.name} was started anew by Slurm meanwhile", hint="try again when it is ready"
            )
            return await self._fail(session, intent, error)
        try:
            deed = await self._deeds.do(session, intent)
        except LauncherError as error:
            if self._may_become_clear(intent, error) or self._may_pass(session, intent, error):
                log.info("the %s of %s is asked for again: %s", intent.verb, session.id, error.message)
                self._backoff.failed(session.id)
                return session
            return await self._fail(session, intent, to_user_error(error, _name_of_data(session, intent)))
        failpoint(f"{intent.verb}.done")
        return await self._conclude(session, _succeeded(intent, deed))

    def _may_become_clear(self, intent: Operation, error: LauncherError) -> bool:
        """Whether to ask again: always, while it is the launcher or Slurm that is away; a worker that dies or takes too
        long each time is given up, and what it may have done after all the session's record tells the next operation.
        """
        if error.kind not in {"crashed", "timed-out"}:
            return error.unclear
        self._tries[intent.id] = self._tries.get(intent.id, 0) + 1
        return self._tries[intent.id] < TRIES

    def _may_pass(self, session: Session, intent: Operation, error: LauncherError) -> bool:
        """Whether a dying job is in the way: it has the volumes open still, or could not copy them any more and its end
        will be seen, after which a snapshot is taken without it.
        """
        dying = intent.kind.job == "optional" and session.state is not SessionState.CHANGING
        if error.kind != "busy" and not (error.kind == "ended" and dying):
            return False
        return time.monotonic() - self._busy_since.setdefault(intent.id, time.monotonic()) < BUSY

    async def _fail(self, session: Session, intent: Operation, error: BerthError) -> Session:
        log.info("the %s of %s has failed: %s", intent.verb, session.id, error.message)
        try:
            await self._deeds.take_back(session, intent)
        except LauncherError as trouble:
            if trouble.unclear:
                self._backoff.failed(session.id)
                return session
            log.warning("the manifest of %s tells of a %s that failed: %s", session.id, intent.verb, trouble.message)
        self._upkeep.schedule_gc(session.owner)  # what it had made so far
        return await self._conclude(session, _failed(intent, session.state, error))

    async def _conclude(self, session: Session, decide: Transition) -> Session:
        now = await self._registry.update(session.id, decide)
        self._backoff.forget(session.id)
        if now.intent is not None:
            self._busy_since.pop(now.intent.id, None)
            self._tries.pop(now.intent.id, None)
        if now.state is SessionState.SUBMITTING and not self._submitter.under_way(now.id):
            self._submitter.submit(now)
        self._upkeep.flatten_if_deep(now)
        return now

    async def _tell(self, session_id: str, volumes: dict[str, Any]) -> None:
        await self._registry.update(session_id, lambda _: ({"volumes": volumes}, None))

    async def _note(self, session: Session, intent: Operation, arguments: dict[str, Any]) -> Operation:
        def decide(now: Session) -> RowChange | None:
            if now.pending is None or now.pending.id != intent.id:
                return None
            told = now.pending
            return {"operation": told.but(arguments=told.arguments | arguments).record()}, None

        await self._registry.update(session.id, decide)
        return intent.but(arguments=intent.arguments | arguments)


def can_go_on(session: Session) -> bool:
    """Whether there is an operation that waits for nothing but the launcher: not for the end of a job."""
    intent = session.pending
    if intent is None:
        return False
    runs = {SessionState.QUEUED, SessionState.STARTING, SessionState.READY}
    return session.state is SessionState.CHANGING or (session.state in runs and not intent.kind.needs_stopped)


def _name_of_data(session: Session, intent: Operation) -> str:
    return str(intent.arguments["name"]) if intent.kind.has_source else session.name


def _succeeded(intent: Operation, deed: OperationResult) -> Transition:
    def decide(now: Session) -> RowChange | None:
        told = now.pending
        if told is None or told.id != intent.id:
            return None
        record = told.done(deed.message, undo=deed.undo, snapshot=deed.snapshot).record()
        values, job = deed.values | {"operation": record}, dict[str, Any]()
        if now.state is SessionState.CHANGING:
            kept = told.but(state=SessionState.STOPPED, why="") if intent.kind.resets_state else told
            then, job = _afterwards(now, kept, root=intent.kind.enters_root_mode)
            values |= then
        return JobChange(values, EventEntry("berth", f"{intent.verb}-done", deed.message), job=job)

    return decide


def _failed(intent: Operation, seen: SessionState, error: BerthError) -> Transition:
    def decide(now: Session) -> RowChange | None:
        told = now.pending
        if told is None or told.id != intent.id:
            return None
        if seen is not SessionState.CHANGING and now.state is SessionState.CHANGING:
            return None  # its job has ended meanwhile: what the job could not do is done without it
        values: dict[str, Any] = {"operation": told.failed(error).record()}
        job: dict[str, Any] = {}
        if now.state is SessionState.CHANGING and intent.kind.creates_session:
            values |= {"state": SessionState.DELETED, "reason": ""}
            values |= {"name": intent.arguments["was"]} if "was" in intent.arguments else {}  # its former name
        elif now.state is SessionState.CHANGING:
            start = told.start and (told.ran or not told.kind.enters_root_mode)
            then, job = _afterwards(now, told.but(start=start))
            values |= then
        return JobChange(values, EventEntry("berth", f"{intent.verb}-failed", error.message), job=job)

    return decide


def _afterwards(now: Session, intent: Operation, *, root: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of a session that was CHANGING, once its operation is over, and those of its next job."""
    if intent.start:
        values, job = next_submission(now)
        return values | {"root": root}, job | {
            name: intent.arguments[name] for name in ("gpus",) if name in intent.arguments
        }
    return {"state": intent.state, "reason": intent.why, "root": False}, {}
