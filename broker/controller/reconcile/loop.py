"""The reconcile loop: bring the registry in line with Slurm, by one query a tick for all sessions.

Start-up, crash recovery and every tick are this same code. A tick asks Slurm, reads the living sessions, gives each
what `state.next_state` says, and sees to what is left over: cancels that were asked for, submissions that were
interrupted, operations on volumes, data to remove, and jobs that carry a session's name but are not its job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from broker.controller.metrics import RECONCILE_FAILURES, RECONCILE_SECONDS
from broker.controller.reconcile.job_comment import JOB_PREFIX
from broker.controller.reconcile.observation import (
    end,
    is_newer,
    mark,
    match,
    observation,
    observe,
    session_id,
    told_who,
)
from broker.controller.reconcile.state import CANCELLED_OUTSIDE, Outcome, ended_in_accounting, lost
from broker.controller.reconcile.succession import END_EARLY
from broker.controller.registry.registry import EventEntry, changes
from broker.errors import BerthError
from broker.failpoints import failpoint
from broker.schema.sessions import LIVE, MOVING, SessionState
from slurm.scheduler import NoAnswer, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.config.settings import SlurmSettings
    from broker.controller.reconcile.continuation import Continuation
    from broker.controller.reconcile.deletion import DeletionWorker
    from broker.controller.reconcile.idle import IdlePolicy
    from broker.controller.reconcile.maintenance import Maintenance
    from broker.controller.reconcile.observation import Matched
    from broker.controller.reconcile.operations import OperationRunner
    from broker.controller.reconcile.scheduled_stop import Stopping
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.wakeup import ChangeNotifier
    from slurm.scheduler import FinishedJob, Job, Scheduler

log = logging.getLogger(__name__)

SOON, LATER, IDLE = 0.05, 2.0, 15.0
"""Seconds between queries: right after a change, at most while something moves, and at most otherwise."""
SHARE = 0.1
"""In between, the next query comes after this share of the time since the last change: whoever waits for Slurm waits
a tenth longer for us, and a job that waits for 20 s has cost 50 queries."""
PATIENCE, LONGEST_PAUSE = 5.0, 15.0
"""The next query comes no sooner than this many times what the last one took, so that a busy slurmctld is left alone,
but after so many seconds in any case, so that one that is back is seen."""
CANCEL_AGAIN = 15.0
"""Seconds after which a job that was cancelled and still lives is cancelled again."""
PUT_OFF = "BeginTime"
"""Slurm's reason for a job that may not start before a certain time."""
ACCOUNTING_EVERY = 10.0
"""Seconds between questions to slurmdbd about jobs that slurmctld has forgotten."""
CANCELLER_KNOWN = 120.0
"""Seconds in which slurmdbd has heard of a job's end, or is not waited for."""
WITHOUT_ACCOUNTING = 10
"""A missing job counts as lost after this many times `lost_grace` where slurmdbd does not answer at all."""


class Reconciler:
    """Runs ticks until cancelled. `stale_since` is set while Slurm does not answer."""

    def __init__(
        self,
        *,
        settings: SlurmSettings,
        registry: AsyncRegistry,
        scheduler: Scheduler,
        submitter: Submitter,
        operator: OperationRunner,
        deletion: DeletionWorker,
        upkeep: Maintenance,
        continuation: Continuation,
        stopping: Stopping,
        idleness: IdlePolicy,
        changes: ChangeNotifier,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._scheduler = scheduler
        self._submitter = submitter
        self._operator = operator
        self._deletion = deletion
        self._upkeep = upkeep
        self._continuation = continuation
        self._stopping = stopping
        self._idleness = idleness
        self._changes = changes
        self._woken = asyncio.Event()
        self._changed_at = time.monotonic()
        self._query_took = 0.0
        self._asked_accounting_at = 0.0
        self._cancelled: dict[str, Session] = {}
        """Sessions whose job somebody has cancelled, by id, as long as accounting has not said who."""
        self._strays: dict[int, float] = {}
        """When each stray was last cancelled."""
        self._hastened: dict[int, int] = {}
        """After which of its requeues each job was told to start."""
        self._ends: list[float] = []
        """When jobs of ready sessions are going to end by themselves, and when sessions are to be stopped."""
        self.stale_since: float | None = None
        self.moving = True
        """Whether a session is in a state that ends by itself soon."""

    def wake(self) -> None:
        """Look at once, and often for a while: something was asked for."""
        self._changed_at = time.monotonic()
        self._woken.set()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            began = time.monotonic()
            if await self._guarded_tick():
                self._changed_at = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._pause(time.monotonic() - began))

    def _pause(self, took: float) -> float:
        """Seconds until the next query after a tick that took so long: how often Slurm is asked does not depend on
        that, and so not on the number of sessions.
        """
        wanted = min(SHARE * (time.monotonic() - self._changed_at), LATER if self.moving else IDLE)
        now = time.time()
        for late in (now - at for at in self._ends):
            wanted = min(wanted, -late if late < 0 else min(SHARE * late, LATER))
        return max(wanted - took, SOON, min(PATIENCE * self._query_took, LONGEST_PAUSE))

    async def _guarded_tick(self) -> bool:
        try:
            with RECONCILE_SECONDS.time():
                return await self.tick()
        except Exception:  # the loop must outlive any single failure; the next tick starts from what is recorded
            log.exception("a reconcile tick failed")
            RECONCILE_FAILURES.inc()
            return False

    async def tick(self) -> bool:
        """Ask once, and bring every session up to date; True when a session has changed."""
        changing = await self._registry.in_states({SessionState.CHANGING, SessionState.DELETING})
        self._operator.resume(changing)
        await self._deletion.resume(changing)
        asked_at = time.time()
        began = time.monotonic()
        try:
            jobs = await self._scheduler.jobs(JOB_PREFIX)
        except NoAnswer as error:
            if self.stale_since is None:
                self.stale_since = asked_at
                log.warning("Slurm does not answer: %s", error)
            sessions = await self._registry.in_states(LIVE)
            self._operator.resume(sessions)
            self.moving = self._any_moves([*sessions, *changing])
            return False
        finally:
            self._query_took = time.monotonic() - began
        if self.stale_since is not None:
            log.info("Slurm answers again after %.0f s", asked_at - self.stale_since)
            self.stale_since = None
        sessions = await self._stopping.see_to(await self._registry.in_states(LIVE), asked_at)
        sessions = await self._idleness.see_to(sessions, asked_at)
        self._operator.resume(sessions)
        self.moving = self._any_moves([*sessions, *changing])
        self._ends = [s.job.ends_at - END_EARLY for s in sessions if s.state is SessionState.READY and s.job.ends_at]
        self._ends += [at for s in sessions for at in (s.stop_at, s.job.idle_stop_at) if at is not None]
        found = match(sessions, jobs)
        self._hastened = {job.id: self._hastened[job.id] for job in jobs if job.id in self._hastened}
        changed = await self._observe_all(sessions, found, asked_at)
        await self._observe_missing(sessions, found, asked_at)
        await self._cancel_strays(found.strays)  # first, so that no successor starts when its session is stopped
        await self._follow_up(sessions, found, asked_at)
        await self._continuation.see_to(sessions, found.heirs, asked_at)
        if changed:
            self._changes.notify()
        return changed

    async def _observe_all(self, sessions: list[Session], found: Matched, asked_at: float) -> bool:
        changed = False
        for session in sessions:
            job, heir = found.own.get(session.id), found.heirs.get(session.id)
            try:
                while job is not None and changes(session, observation(session, job, heir, asked_at)):
                    seen = session
                    decide = observe(seen, job, heir, asked_at)
                    session = await self._registry.update(seen.id, decide)  # noqa: PLW2901 - as it is now
                    self._see_to(session)
                    changed = True
                    # If the successor has taken over: what is it doing?
                    over = session.submission != seen.submission and heir is not None and session.job.job_id == heir.id
                    job, heir = heir if over else None, None
            except BerthError:  # one session's trouble is not the others'
                log.exception("session %s could not be brought up to date", session.id)
        return changed

    def _see_to(self, session: Session) -> None:
        """A session has changed: what waited for that begins."""
        if session.reason == CANCELLED_OUTSIDE:
            self._cancelled[session.id] = session
        self._operator.resume([session])
        self._upkeep.flatten_if_deep(session)
        if session.state is SessionState.SUBMITTING and session.job.attempted_at is None:
            self._submitter.submit(session)

    async def _observe_missing(self, sessions: list[Session], found: Matched, asked_at: float) -> None:
        """Where Slurm answered without a session's job: ask accounting how it ended, and give up on it only after long
        silence.
        """
        missing = [session for session in sessions if session.job.job_id is not None and session.id not in found.own]
        for session in missing:
            if session.job.missing_since is None:
                await self._registry.update(session.id, mark(session, {"missing_since": asked_at}))
        asked_about = [*missing, *self._cancelled.values()]
        if not asked_about or asked_at - self._asked_accounting_at < ACCOUNTING_EVERY:
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
                await self._conclude(session, outcome, asked_at, found.heirs.get(session.id))
        for session in list(self._cancelled.values()):
            await self._say_who(session, records, asked_at)

    async def _say_who(self, session: Session, records: Mapping[int, FinishedJob] | None, asked_at: float) -> None:
        """Tell who has cancelled the session's job, once accounting knows."""
        record = _record_of(session, records)
        if record is not None or asked_at - (session.job.ended_at or 0) > CANCELLER_KNOWN:
            del self._cancelled[session.id]
        if record is not None and record.cancelled_by:
            await self._registry.update(session.id, told_who(session, record.cancelled_by))
            self._changes.notify()

    async def _conclude(self, session: Session, outcome: Outcome, asked_at: float, heir: Job | None = None) -> None:
        self._see_to(await self._registry.update(session.id, end(session, outcome, heir, asked_at)))
        self._changes.notify()

    def _end_of(self, session: Session, records: Mapping[int, FinishedJob] | None, asked_at: float) -> Outcome | None:
        record = _record_of(session, records)
        if record is not None:
            return ended_in_accounting(session.state, record)
        grace = self._settings.lost_grace * (WITHOUT_ACCOUNTING if records is None else 1)
        if session.state is SessionState.STOPPING:
            grace = self._settings.submit_grace  # nobody waits for its job; a next one finds the lock if it lives
        if session.job.missing_since is not None and asked_at - session.job.missing_since > grace:
            return lost(session.state)
        return None

    async def _follow_up(self, sessions: list[Session], found: Matched, asked_at: float) -> None:
        own = found.own
        for session in sessions:
            heir = found.heirs.get(session.id)
            makes_way = session.resizing and heir is not None and not heir.state.ended
            if (makes_way or session.state is SessionState.STOPPING) and (job := own.get(session.id)) is not None:
                await self._cancel(session, job, asked_at)
            elif session.job.job_id is None and session.id not in own and not self._submitter.under_way(session.id):
                await self._resume(session, asked_at)
            elif (job := own.get(session.id)) is not None and job.state.waits:
                await self._hasten(job)

    async def _hasten(self, job: Job) -> None:
        """Have a job start that Slurm has requeued: it puts such a job off for two minutes."""
        if job.reason != PUT_OFF or not job.restarts or self._hastened.get(job.id) == job.restarts:
            return
        self._hastened[job.id] = job.restarts
        try:
            await self._scheduler.start_now(job.id)
        except (NoAnswer, Refused) as error:
            log.warning("job %d starts when Slurm lets it: %s", job.id, error)

    async def _resume(self, session: Session, asked_at: float) -> None:
        """No job is known and nobody is submitting: submit, or give up if it is to stop, once a job of the last
        attempt would have shown up in an answer that was asked for long enough after it.
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
        if job.state.ended or (cancelled_at is not None and asked_at - cancelled_at < CANCEL_AGAIN):
            return
        try:
            await self._scheduler.cancel(job.id)
        except NoAnswer as error:
            log.warning("job %d could not be cancelled yet: %s", job.id, error)
            return
        except Refused as error:
            log.error("Slurm will not cancel job %d: %s", job.id, error)
            refusal = EventEntry("berth", "cancel-refused", f"{error}; `scancel {job.id}` ends the job")
            marked = mark(session, {"cancelled_at": asked_at}, refusal)
            await self._registry.update(session.id, marked)
            return
        failpoint("stop.cancelled")
        self._changed_at = time.monotonic()
        await self._registry.update(session.id, mark(session, {"cancelled_at": asked_at}))

    async def _cancel_strays(self, strays: list[Job]) -> None:
        """End jobs that carry the name of one of our sessions but are not its job: a late submission, a deleted
        session.
        """
        self._strays = {job.id: self._strays[job.id] for job in strays if job.id in self._strays}
        known = {s.id: s for s in await self._registry.by_ids({session_id(job) for job in strays})}
        for job in strays:
            session = known.get(session_id(job))
            if session is None or session.owner != job.user or self._submitter.under_way(session.id):
                continue
            if job.id == session.job.job_id and session.state in LIVE:
                continue  # it became the session's job after the query
            if is_newer(job, session):
                log.warning("job %d is newer than the registry knows: `berth registry rebuild` takes it in", job.id)
                continue
            if time.monotonic() - self._strays.get(job.id, -CANCEL_AGAIN) < CANCEL_AGAIN:
                continue
            log.warning("cancelling job %d: it carries the name of session %s but is not its job", job.id, session.id)
            self._strays[job.id] = time.monotonic()
            with contextlib.suppress(NoAnswer, Refused):
                await self._scheduler.cancel(job.id)

    def _any_moves(self, sessions: Iterable[Session]) -> bool:
        """Whether anything ends by itself soon; data that could not be removed is tried again much later."""
        return self._deletion.under_way or any(
            session.state in MOVING - {SessionState.DELETING} or session.pending is not None for session in sessions
        )


def _record_of(session: Session, records: Mapping[int, FinishedJob] | None) -> FinishedJob | None:
    """What accounting says of the session's job: ids come again."""
    record = (records or {}).get(session.job.job_id or 0)
    its = record is not None and record.name == JOB_PREFIX + session.id and record.user == session.owner
    return record if its else None
