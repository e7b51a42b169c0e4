"""The reconcile loop: bring the registry in line with Slurm, by one query a tick for all sessions.

Start-up, crash recovery and every tick run this same code. A tick queries Slurm, reads the live sessions and records
for each the state that `state.next_state` returns. Then it processes what is left: requested cancels, interrupted
submissions, operations on volumes, data to remove, and orphan jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.metrics import RECONCILE_FAILURES, RECONCILE_SECONDS
from broker.controller.reconcile.job_comment import JOB_PREFIX
from broker.controller.reconcile.observation import (
    is_newer,
    mark,
    match,
    observation,
    observe,
    record_canceller,
    record_end,
    session_id,
)
from broker.controller.reconcile.state import CANCELLED_OUTSIDE, Outcome, ended_in_accounting, lost
from broker.controller.reconcile.succession import END_EARLY_S
from broker.controller.registry.registry import EventEntry, changes
from broker.errors import BerthError
from broker.failpoints import failpoint
from broker.schema.sessions import LIVE, MOVING, SessionState
from slurm.scheduler import NoAnswer, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.config.settings import SlurmSettings
    from broker.controller.reconcile.continuation import Continuation
    from broker.controller.reconcile.deletion import DeletionRunner
    from broker.controller.reconcile.idle import IdlePolicy
    from broker.controller.reconcile.maintenance import Maintenance
    from broker.controller.reconcile.observation import Matched
    from broker.controller.reconcile.operation_runner import OperationRunner
    from broker.controller.reconcile.stop import ScheduledStopPolicy
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.wakeup import ChangeNotifier
    from slurm.scheduler import FinishedJob, Job, Scheduler

log = logging.getLogger(__name__)

FIRST_QUERY_S, MOVING_QUERY_S, IDLE_QUERY_S = 0.05, 2.0, 15.0
"""Seconds between queries: after a change; at most while a session is moving; at most otherwise."""
AGE_FACTOR = 0.1
"""The share of the time since the last change after which the next query comes. Berth thus adds a tenth to a wait for
Slurm, and a job that waits for 20 s costs 50 queries."""
LOAD_FACTOR, MAX_PAUSE_S = 5.0, 15.0
"""The pause before the next query is at least this many times the duration of the last one, which spares a busy
slurmctld; but at most so many seconds, so that Berth notices when slurmctld answers again."""
CANCEL_RETRY_S = 15.0
"""Seconds after which Berth cancels a job again that has not ended."""
BEGIN_TIME = "BeginTime"
"""Slurm's reason for a job that may not start before its begin time."""
ACCOUNTING_INTERVAL_S = 10.0
"""Seconds between queries to slurmdbd about jobs that slurmctld has forgotten."""
CANCELLER_TIMEOUT_S = 120.0
"""Seconds that Berth waits for slurmdbd to report who cancelled a job."""
NO_ACCOUNTING_FACTOR = 10
"""The factor by which `lost_grace` is longer while slurmdbd does not answer."""


class Reconciler:
    """Runs ticks until cancelled. `stale_since` is set while Slurm does not answer."""

    def __init__(
        self,
        *,
        settings: SlurmSettings,
        registry: AsyncRegistry,
        scheduler: Scheduler,
        submitter: Submitter,
        operations: OperationRunner,
        deletion: DeletionRunner,
        maintenance: Maintenance,
        continuation: Continuation,
        scheduled_stop: ScheduledStopPolicy,
        idle_policy: IdlePolicy,
        changes: ChangeNotifier,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._scheduler = scheduler
        self._submitter = submitter
        self._operations = operations
        self._deletion = deletion
        self._maintenance = maintenance
        self._continuation = continuation
        self._scheduled_stop = scheduled_stop
        self._idle_policy = idle_policy
        self._changes = changes
        self._woken = asyncio.Event()
        self._changed_at = clock.monotonic()
        self._query_took = 0.0
        self._asked_accounting_at = 0.0
        self._cancelled: dict[str, Session] = {}
        """Sessions by id whose job was cancelled outside Berth, until accounting reports by whom."""
        self._orphans: dict[int, float] = {}
        """The time of the last cancel of each orphan job."""
        self._hastened: dict[int, int] = {}
        """The restart count at which each requeued job was last asked to start."""
        self._ends: list[float] = []
        """Times at which jobs of ready sessions will end, and at which sessions will be stopped."""
        self.stale_since: float | None = None
        self.moving = True
        """Whether a session is in a transitional state."""

    def wake(self) -> None:
        """Query Slurm at once and then often for a while, after a user's request."""
        self._changed_at = clock.monotonic()
        self._woken.set()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            began = clock.monotonic()
            if await self._guarded_tick():
                self._changed_at = clock.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._pause(clock.monotonic() - began))

    def _pause(self, took: float) -> float:
        """Return the seconds until the next query, after a tick of `took` seconds.

        They are subtracted, so that the rate of queries does not depend on the number of sessions.
        """
        pause = min(
            AGE_FACTOR * (clock.monotonic() - self._changed_at), MOVING_QUERY_S if self.moving else IDLE_QUERY_S
        )
        now = clock.now()
        for late in (now - at for at in self._ends):
            pause = min(pause, -late if late < 0 else min(AGE_FACTOR * late, MOVING_QUERY_S))
        return max(pause - took, FIRST_QUERY_S, min(LOAD_FACTOR * self._query_took, MAX_PAUSE_S))

    async def _guarded_tick(self) -> bool:
        try:
            with RECONCILE_SECONDS.time():
                return await self.tick()
        except Exception:  # the loop must outlive any single failure; the next tick starts from what is recorded
            log.exception("a reconcile tick failed")
            RECONCILE_FAILURES.inc()
            return False

    async def tick(self) -> bool:
        """Query Slurm once and update every session. Return whether a session has changed."""
        changing = await self._registry.in_states({SessionState.CHANGING, SessionState.DELETING})
        self._operations.resume(changing)
        await self._deletion.resume(changing)
        asked_at = clock.now()
        began = clock.monotonic()
        try:
            jobs = await self._scheduler.jobs(JOB_PREFIX)
        except NoAnswer as error:
            if self.stale_since is None:
                self.stale_since = asked_at
                log.warning("Slurm does not answer: %s", error)
            sessions = await self._registry.in_states(LIVE)
            self._operations.resume(sessions)
            self.moving = self._any_moves([*sessions, *changing])
            return False
        finally:
            self._query_took = clock.monotonic() - began
        if self.stale_since is not None:
            log.info("Slurm answers again after %.0f s", asked_at - self.stale_since)
            self.stale_since = None
        sessions = await self._scheduled_stop.enforce(await self._registry.in_states(LIVE), asked_at)
        sessions = await self._idle_policy.enforce(sessions, asked_at)
        self._operations.resume(sessions)
        self.moving = self._any_moves([*sessions, *changing])
        self._ends = [s.job.ends_at - END_EARLY_S for s in sessions if s.state is SessionState.READY and s.job.ends_at]
        self._ends += [at for s in sessions for at in (s.stop_at, s.job.idle_stop_at) if at is not None]
        found = match(sessions, jobs)
        self._hastened = {job.id: self._hastened[job.id] for job in jobs if job.id in self._hastened}
        changed = await self._observe_all(sessions, found, asked_at)
        await self._observe_missing(sessions, found, asked_at)
        await self._cancel_orphans(found.orphans)  # first, so that no successor starts when its session is stopped
        await self._follow_up(sessions, found, asked_at)
        await self._continuation.enforce(sessions, found.successors, asked_at)
        if changed:
            self._changes.notify()
        return changed

    async def _observe_all(self, sessions: list[Session], found: Matched, asked_at: float) -> bool:
        changed = False
        for session in sessions:
            job, successor = found.own.get(session.id), found.successors.get(session.id)
            try:
                while job is not None and changes(session, observation(session, job, successor, asked_at)):
                    observed = session
                    decide = observe(observed, job, successor, asked_at)
                    session = await self._registry.update(observed.id, decide)  # noqa: PLW2901 - the current row
                    self._process(session)
                    changed = True
                    # Once the successor is the session's job, observe that job too.
                    over = (
                        session.submission != observed.submission
                        and successor is not None
                        and session.job.job_id == successor.id
                    )
                    job, successor = successor if over else None, None
            except BerthError:  # the other sessions are still observed
                log.exception("observation failed session=%s", session.id)
        return changed

    def _process(self, session: Session) -> None:
        """Start the work that waited for this change of the session."""
        if session.reason == CANCELLED_OUTSIDE:
            self._cancelled[session.id] = session
        self._operations.resume([session])
        self._maintenance.flatten_if_deep(session)
        if session.state is SessionState.SUBMITTING and session.job.attempted_at is None:
            self._submitter.submit(session)

    async def _observe_missing(self, sessions: list[Session], found: Matched, asked_at: float) -> None:
        """Query accounting for the end of jobs that are missing from Slurm's answer. Give a job up as lost only after
        the grace time.
        """
        missing = [session for session in sessions if session.job.job_id is not None and session.id not in found.own]
        for session in missing:
            if session.job.missing_since is None:
                await self._registry.update(session.id, mark(session, {"missing_since": asked_at}))
        asked_about = [*missing, *self._cancelled.values()]
        if not asked_about or asked_at - self._asked_accounting_at < ACCOUNTING_INTERVAL_S:
            return
        self._asked_accounting_at = asked_at
        records: Mapping[int, FinishedJob] | None
        try:
            records = await self._scheduler.finished([s.job.job_id for s in asked_about if s.job.job_id is not None])
        except NoAnswer as error:
            log.warning("Slurm's accounting does not answer: %s", error)
            records = None
        for session in missing:
            outcome = self._end_of(session, records, asked_at)
            if outcome is not None:
                await self._conclude(session, outcome, asked_at, found.successors.get(session.id))
        for session in list(self._cancelled.values()):
            await self._record_canceller(session, records, asked_at)

    async def _record_canceller(
        self, session: Session, records: Mapping[int, FinishedJob] | None, asked_at: float
    ) -> None:
        """Record who cancelled the session's job, once accounting reports it."""
        record = _record_of(session, records)
        if record is not None or asked_at - (session.job.ended_at or 0) > CANCELLER_TIMEOUT_S:
            del self._cancelled[session.id]
        if record is not None and record.cancelled_by:
            await self._registry.update(session.id, record_canceller(session, record.cancelled_by))
            self._changes.notify()

    async def _conclude(
        self, session: Session, outcome: Outcome, asked_at: float, successor: Job | None = None
    ) -> None:
        self._process(await self._registry.update(session.id, record_end(session, outcome, successor, asked_at)))
        self._changes.notify()

    def _end_of(self, session: Session, records: Mapping[int, FinishedJob] | None, asked_at: float) -> Outcome | None:
        record = _record_of(session, records)
        if record is not None:
            return ended_in_accounting(session.state, record)
        grace = self._settings.lost_grace * (NO_ACCOUNTING_FACTOR if records is None else 1)
        if session.state is SessionState.STOPPING:
            grace = self._settings.submit_grace  # the next job waits for the lock of one that still runs
        if session.job.missing_since is not None and asked_at - session.job.missing_since > grace:
            return lost(session.state)
        return None

    async def _follow_up(self, sessions: list[Session], found: Matched, asked_at: float) -> None:
        own = found.own
        for session in sessions:
            successor = found.successors.get(session.id)
            makes_way = session.resizing and successor is not None and not successor.state.ended
            if (makes_way or session.state is SessionState.STOPPING) and (job := own.get(session.id)) is not None:
                await self._cancel(session, job, asked_at)
            elif session.job.job_id is None and session.id not in own and not self._submitter.under_way(session.id):
                await self._resume(session, asked_at)
            elif (job := own.get(session.id)) is not None and job.state.waits:
                await self._hasten(job)

    async def _hasten(self, job: Job) -> None:
        """Let a requeued job start now: Slurm delays such a job by two minutes."""
        if job.reason != BEGIN_TIME or not job.restarts or self._hastened.get(job.id) == job.restarts:
            return
        self._hastened[job.id] = job.restarts
        try:
            await self._scheduler.start_now(job.id)
        except (NoAnswer, Refused) as error:
            log.warning("requeued job not started early job=%d error=%s", job.id, error)

    async def _resume(self, session: Session, asked_at: float) -> None:
        """Submit a session that has no job, or conclude its stop.

        Wait for `submit_grace` first: within that time a job of the last attempt would show up in Slurm's answer.
        """
        attempted_at = session.job.attempted_at
        if attempted_at is not None and asked_at - attempted_at < self._settings.submit_grace:
            return
        if session.state is SessionState.SUBMITTING:
            log.info("submitting %s again: Slurm has no job of it", session.id)
            self._submitter.submit(session)
        elif session.state is SessionState.STOPPING:
            await self._conclude(session, lost(session.state), asked_at)

    async def _cancel(self, session: Session, job: Job, asked_at: float) -> None:
        cancelled_at = session.job.cancelled_at
        if job.state.ended or (cancelled_at is not None and asked_at - cancelled_at < CANCEL_RETRY_S):
            return
        try:
            await self._scheduler.cancel(job.id)
        except NoAnswer as error:
            log.warning("cancel failed job=%d error=%s", job.id, error)
            return
        except Refused as error:
            log.error("Slurm refused the cancel job=%d error=%s", job.id, error)
            refusal = EventEntry("berth", "cancel-refused", f"{error}; `scancel {job.id}` ends the job")
            marked = mark(session, {"cancelled_at": asked_at}, refusal)
            await self._registry.update(session.id, marked)
            return
        failpoint("stop.cancelled")
        self._changed_at = clock.monotonic()
        await self._registry.update(session.id, mark(session, {"cancelled_at": asked_at}))

    async def _cancel_orphans(self, orphans: list[Job]) -> None:
        """Cancel jobs that have a session's name but are not its job: of a late submission or of a deleted session."""
        self._orphans = {job.id: self._orphans[job.id] for job in orphans if job.id in self._orphans}
        known = {s.id: s for s in await self._registry.by_ids({session_id(job) for job in orphans})}
        for job in orphans:
            session = known.get(session_id(job))
            if session is None or session.owner != job.user or self._submitter.under_way(session.id):
                continue
            if job.id == session.job.job_id and session.state in LIVE:
                continue  # it became the session's job after the query
            if is_newer(job, session):
                log.warning("job %d is newer than the registry: `berth registry rebuild` adopts it", job.id)
                continue
            if clock.monotonic() - self._orphans.get(job.id, -CANCEL_RETRY_S) < CANCEL_RETRY_S:
                continue
            log.warning("cancelling job %d: it has the name of session %s but is not its job", job.id, session.id)
            self._orphans[job.id] = clock.monotonic()
            with contextlib.suppress(NoAnswer, Refused):
                await self._scheduler.cancel(job.id)

    def _any_moves(self, sessions: Iterable[Session]) -> bool:
        """Whether a session is in a transitional state or has a pending operation.

        Data that could not be removed does not count: the next attempt is much later.
        """
        return self._deletion.under_way or any(
            session.state in MOVING - {SessionState.DELETING} or session.pending is not None for session in sessions
        )


def _record_of(session: Session, records: Mapping[int, FinishedJob] | None) -> FinishedJob | None:
    """Return the accounting record of the session's job. Name and user must match, because Slurm reuses job ids."""
    record = (records or {}).get(session.job.job_id or 0)
    matches = record is not None and record.name == JOB_PREFIX + session.id and record.user == session.owner
    return record if matches else None
