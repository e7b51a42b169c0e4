"""The reconcile loop: bring the registry in line with Slurm, by one query a tick.

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
from broker.controller.reconcile.held_jobs import should_hold
from broker.controller.reconcile.interruption import is_requeued
from broker.controller.reconcile.job_comment import JOB_PREFIX
from broker.controller.reconcile.moving_sessions import MovingSessions, moves_otherwise
from broker.controller.reconcile.observation import (
    any_moves,
    has_to_end,
    mark,
    match,
    record_canceller,
    record_end,
    record_of,
)
from broker.controller.reconcile.query_pace import QueryPace
from broker.controller.reconcile.quiet_sessions import QuietSessions
from broker.controller.reconcile.recorder import ObservationRecorder
from broker.controller.reconcile.state import CANCELLED_OUTSIDE, Outcome, outcome_of_finished_job, outcome_of_lost_job
from broker.controller.reconcile.succession import END_EARLY_S, outlives_successor
from broker.schema.sessions import LIVE, SessionState
from broker.service.lasting_states import LastingStates
from slurm.scheduler import NoAnswer, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.config.settings import SlurmSettings
    from broker.controller.reconcile.cancellation import JobCanceller
    from broker.controller.reconcile.continuation import Continuation
    from broker.controller.reconcile.deletion import DeletionRunner
    from broker.controller.reconcile.end_notice import EndNoticeWriter
    from broker.controller.reconcile.held_jobs import JobHolder
    from broker.controller.reconcile.idle import IdlePolicy
    from broker.controller.reconcile.maintenance import Maintenance
    from broker.controller.reconcile.node_watch import NodeWatch
    from broker.controller.reconcile.observation import Matched
    from broker.controller.reconcile.observed_slurm import ObservedSlurm
    from broker.controller.reconcile.operation_runner import OperationRunner
    from broker.controller.reconcile.running_copies import RunningCopies
    from broker.controller.reconcile.session_files import FileRewriter
    from broker.controller.reconcile.stop import ScheduledStopPolicy
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.reconcile.upgrade_offers import UpgradeOffers
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.errors import BerthError
    from slurm.scheduler import FinishedJob, Job, Scheduler

log = logging.getLogger(__name__)

BEGIN_TIME = "BeginTime"
"""Slurm's reason for a job that may not start before its begin time."""
ACCOUNTING_INTERVAL_S = 10.0
"""Seconds between queries to slurmdbd about jobs that slurmctld has forgotten."""
CANCELLER_TIMEOUT_S = 120.0
"""Seconds that Berth waits for slurmdbd to report who cancelled a job."""
NO_ACCOUNTING_FACTOR = 10
"""The factor by which `lost_grace` is longer while slurmdbd does not answer."""


class Reconciler:
    """Runs ticks until cancelled."""

    def __init__(
        self,
        *,
        settings: SlurmSettings,
        registry: AsyncRegistry,
        scheduler: Scheduler,
        submitter: Submitter,
        canceller: JobCanceller,
        operations: OperationRunner,
        deletion: DeletionRunner,
        maintenance: Maintenance,
        continuation: Continuation,
        scheduled_stop: ScheduledStopPolicy,
        idle_policy: IdlePolicy,
        end_notices: EndNoticeWriter,
        node_watch: NodeWatch,
        holder: JobHolder,
        rewriter: FileRewriter,
        copies: RunningCopies,
        offers: UpgradeOffers,
        observed: ObservedSlurm,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._scheduler = scheduler
        self._submitter = submitter
        self._canceller = canceller
        self._operations = operations
        self._deletion = deletion
        self._maintenance = maintenance
        self._continuation = continuation
        self._scheduled_stop = scheduled_stop
        self._idle_policy = idle_policy
        self._end_notices = end_notices
        self._node_watch = node_watch
        self._holder = holder
        self._rewriter = rewriter
        self._copies = copies
        self._offers = offers
        self.observed = observed
        self._quiet = QuietSessions(registry)
        self._recorder = ObservationRecorder(registry, self._report_unrecorded)
        self._pace = QueryPace()
        self._woken = asyncio.Event()
        self._asked_accounting_at = 0.0
        self._cancelled: dict[str, Session] = {}
        """Sessions by id whose job was cancelled outside Berth, until accounting reports by whom."""
        self._hastened: dict[int, int] = {}
        """The restart count at which each requeued job was last asked to start."""
        self._lasting = LastingStates(log)

    @property
    def moving(self) -> bool:
        """Whether a session is in a transitional state."""
        return self._pace.moving

    def wake(self) -> None:
        """Query Slurm for all jobs at once, and then often for a while, after a user's request."""
        self._pace.note_change()
        self._pace.wants_all = True
        self._woken.set()

    def refresh(self) -> None:
        """Query Slurm for a user who only looks: at once, or a moment after the last query if that was just now."""
        pause = self._pace.refresh_pause()
        if pause is not None:  # else the next query is on its way
            asyncio.get_running_loop().call_later(pause, self.wake)

    async def run(self) -> None:
        while True:
            self._woken.clear()
            began = clock.monotonic()
            if await self._guarded_tick():
                self._pace.note_change()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._pace.pause(clock.monotonic() - began))

    async def _guarded_tick(self) -> bool:
        try:
            with RECONCILE_SECONDS.time():
                changed = await self.next_tick()
        except Exception as error:  # noqa: BLE001 - the loop must outlive any single failure
            self._lasting.report("tick", logging.ERROR, f"a reconcile tick failed: {error!r}", cause=error)
            RECONCILE_FAILURES.inc()
            return False  # the next tick starts from what is recorded
        if self._lasting.end("tick"):
            log.info("reconcile ticks succeed again")
        return changed

    async def next_tick(self) -> bool:
        """Query Slurm for the jobs of moving sessions where that suffices, else for all; update the sessions.

        Return whether a session has changed.
        """
        if not self._pace.is_slow or self._pace.wants_all:
            return await self.tick()
        asked = await MovingSessions.read(self._registry)
        self._pace.suffices = self._pace.rest and asked.is_all
        if not self._pace.suffices or not asked.sessions or self._pace.all_due:
            return await self.tick()
        return await self._tick_by_id(asked)

    async def _tick_by_id(self, asked: MovingSessions) -> bool:
        """Query Slurm for the jobs of these sessions alone, and update them.

        Orphans, nodes, successors and times are left to the next query for all jobs.
        """
        asked_at = clock.now()
        began = clock.monotonic()
        try:
            jobs = await self._scheduler.jobs_by_id(asked.job_ids)
        except NoAnswer:
            self._pace.wants_all = True  # that query records the failure
            return False
        finally:
            self._pace.note_query_by_id(began)
        self.observed.record_some(jobs)
        found = match(asked.sessions, jobs)
        sessions = [each for each in asked.sessions if not _is_requeued(each, found)]
        self._pace.wants_all = len(sessions) < len(asked.sessions)  # the state of its node says why a job was requeued
        changed = False
        async for observed, current in self._recorder.record(sessions, found, asked_at, {}):
            self._process(observed, current)
            changed = True
        await self._observe_missing(sessions, found, asked_at)
        await self._follow_up(sessions, found, asked_at, set())
        return changed

    async def tick(self) -> bool:
        """Query Slurm once for all jobs and update every session. Return whether a session has changed."""
        self._pace.wants_all = False
        changing = await self._registry.in_states({SessionState.CHANGING, SessionState.DELETING})
        self._operations.resume(changing)
        await self._deletion.resume(changing)
        asked_at = clock.now()
        began = clock.monotonic()
        try:
            jobs = await self._scheduler.jobs(JOB_PREFIX)
        except NoAnswer as error:
            self.observed.record_failure(asked_at, error)
            sessions = await self._registry.in_states(LIVE)
            self._operations.resume(sessions)
            self._pace.moving = self._deletion.under_way or any_moves([*sessions, *changing])
            self._pace.wants_all = True
            return False
        finally:
            self._pace.note_query(began)
        self.observed.record(jobs, asked_at)
        sessions, jobs = await self._quiet.read(jobs)
        sessions = await self._scheduled_stop.enforce(sessions, asked_at)
        sessions = await self._idle_policy.enforce(sessions, asked_at)
        self._operations.resume(sessions)
        self._set_pace(sessions, changing)
        found = match(sessions, jobs, changing, self._copies)
        self._hastened = {job.id: self._hastened[job.id] for job in jobs if job.id in self._hastened}
        nodes = await self._node_watch.query(sessions, found.own, asked_at)
        changed = False
        async for observed, current in self._recorder.record(sessions, found, asked_at, nodes):
            self._process(observed, current)
            changed = True
        await self._observe_missing(sessions, found, asked_at)
        # First, so that no successor starts when its session is stopped.
        uncancelled = await self._canceller.cancel_orphans(found.orphans)
        await self._follow_up(sessions, found, asked_at, uncancelled)
        await self._continuation.enforce(sessions, found.successors, asked_at)
        self._quiet.remember(sessions, found.own)
        self._offers.look()
        return changed

    def _set_pace(self, sessions: list[Session], changing: list[Session]) -> None:
        pace, everything = self._pace, [*sessions, *changing]
        pace.moving = self._deletion.under_way or bool(self._quiet) or any_moves(everything)
        pace.rest = pace.suffices = not self._deletion.under_way and not any(map(moves_otherwise, everything))
        pace.ends = [s.job.ends_at - END_EARLY_S for s in sessions if s.state is SessionState.READY and s.job.ends_at]
        pace.ends += [at for s in sessions for at in (s.stop_at, s.job.idle_stop_at) if at is not None]

    def _report_unrecorded(self, session: Session, error: BerthError) -> None:
        self._quiet.exclude(session.id)
        text = f"observation failed {session.log_name} error={error.message}"
        self._lasting.report(f"observe {session.id}", logging.ERROR, text, cause=error)

    def _process(self, observed: Session, session: Session) -> None:
        """Start the work that waited for this change of the observed session."""
        if session.reason == CANCELLED_OUTSIDE:
            self._cancelled[session.id] = session
        self._node_watch.update_remark(observed, session)
        self._operations.resume([session])
        self._maintenance.flatten_if_deep(session)
        if session.state is SessionState.SUBMITTING and session.job.attempted_at is None:
            self._submitter.submit(session)
        if observed.successor and not session.successor and session.submission == observed.submission:
            self._rewriter.rewrite(session.id)

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
            records = await self._scheduler.finished_jobs(
                [s.job.job_id for s in asked_about if s.job.job_id is not None]
            )
        except NoAnswer as error:
            self._lasting.report("accounting", logging.WARNING, f"Slurm's accounting does not answer: {error}")
            records = None
        else:
            if self._lasting.end("accounting"):
                log.info("Slurm's accounting answers again")
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
        record = record_of(session, records)
        if record is not None or asked_at - (session.job.ended_at or 0) > CANCELLER_TIMEOUT_S:
            del self._cancelled[session.id]
        if record is not None and record.cancelled_by:
            await self._registry.update(session.id, record_canceller(session, record.cancelled_by))

    async def _conclude(
        self, session: Session, outcome: Outcome, asked_at: float, successor: Job | None = None
    ) -> None:
        current = await self._registry.update(session.id, record_end(session, outcome, successor, asked_at))
        self._process(session, current)

    def _end_of(self, session: Session, records: Mapping[int, FinishedJob] | None, asked_at: float) -> Outcome | None:
        record = record_of(session, records)
        if record is not None:
            return outcome_of_finished_job(session.state, record, session.job.node)
        grace = self._settings.lost_grace * (NO_ACCOUNTING_FACTOR if records is None else 1)
        if session.state is SessionState.STOPPING:
            grace = self._settings.submit_grace  # the next job waits for the lock of one that still runs
        if session.job.missing_since is not None and asked_at - session.job.missing_since > grace:
            return outcome_of_lost_job(session.state)
        return None

    async def _follow_up(self, sessions: list[Session], found: Matched, asked_at: float, uncancelled: set[str]) -> None:
        own = found.own
        ending = {session.id: session for session in sessions if has_to_end(session, found)}
        held = {session.id for session in ending.values() if should_hold(session, own[session.id])}
        leaving = [session for session in ending.values() if session.id not in held]
        await self._end_notices.write(session for session in leaving if session.job.cancelled_at is None)
        for session in sessions:
            if session.id in held:
                self._holder.hold(session)
            elif session.id in ending:
                # A successor that could not be cancelled would start after the end of the present job.
                if session.id not in uncancelled and await self._canceller.cancel(session, own[session.id], asked_at):
                    self._pace.note_change()
            elif session.job.job_id is None and session.id not in own and not self._submitter.under_way(session.id):
                await self._resume(session, asked_at)
            elif (job := own.get(session.id)) is not None and job.state.waits:
                await self._hasten(job)
            if outlives_successor(session) and not self._submitter.under_way(session.id):
                self._rewriter.ensure(session)

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
            log.info("submitting again: Slurm has no job %s", session.log_name)
            self._submitter.submit(session)
        elif session.state is SessionState.STOPPING:
            await self._conclude(session, outcome_of_lost_job(session.state), asked_at)


def _is_requeued(session: Session, found: Matched) -> bool:
    job = found.own.get(session.id)
    return job is not None and is_requeued(session, job)
