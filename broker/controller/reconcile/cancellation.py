"""Cancel jobs: those of sessions that stop or move to another job, and orphan jobs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.reconcile.held_jobs import is_held_job
from broker.controller.reconcile.job_takeover import begin_takeover, copied_sources
from broker.controller.reconcile.observation import is_newer, mark, session_id
from broker.controller.registry.registry import EventEntry
from broker.failpoints import failpoint
from broker.schema.sessions import LIVE, SessionState
from broker.service.lasting_states import LastingStates
from slurm.scheduler import NoAnswer, Refused

if TYPE_CHECKING:
    from broker.controller.reconcile.running_copies import RunningCopies
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from slurm.scheduler import Job, Scheduler

log = logging.getLogger(__name__)

CANCEL_RETRY_S = 15.0
"""Seconds after which Berth cancels a job again that has not ended."""


class JobCanceller:
    """Cancels jobs for the reconcile loop, and again while they do not end."""

    def __init__(
        self, *, registry: AsyncRegistry, scheduler: Scheduler, submitter: Submitter, copies: RunningCopies
    ) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._submitter = submitter
        self._copies = copies
        self._orphans: dict[int, float] = {}
        """The time of the last cancel of each orphan job."""
        self._lasting = LastingStates(log)

    async def cancel(self, session: Session, job: Job, asked_at: float) -> bool:
        """Cancel the session's job, unless that was done a moment ago. Return whether Slurm has accepted it."""
        cancelled_at = session.job.cancelled_at
        if job.state.ended or (cancelled_at is not None and asked_at - cancelled_at < CANCEL_RETRY_S):
            return False
        if session.state is not SessionState.STOPPING:
            session = await self._registry.update(session.id, begin_takeover(session, asked_at))
            if session.job.cancelled_at != asked_at:
                return False  # the resize was withdrawn meanwhile
            changing = await self._registry.in_states({SessionState.CHANGING})
            if session.id in self._copies or session.id in copied_sources(changing):
                # Requested since the tick has looked. Once the takeover is recorded, no copy is accepted.
                await self._registry.update(session.id, mark(session, {"cancelled_at": None}))
                return False
            failpoint("resize.takeover")
        try:
            await self._scheduler.cancel(job.id)
        except NoAnswer as error:
            text = f"cancel failed {session.log_name} job={job.id} error={error}"
            self._lasting.report(f"cancel {job.id}", logging.WARNING, text)
            return False
        except Refused as error:
            text = f"Slurm refused the cancel {session.log_name} job={job.id} error={error}"
            is_new = self._lasting.report(f"cancel {job.id}", logging.ERROR, text)
            refusal = EventEntry("berth", "cancel-refused", f"{error}; `scancel {job.id}` ends the job")
            marked = mark(session, {"cancelled_at": asked_at}, refusal if is_new else None)
            await self._registry.update(session.id, marked)
            return False
        failpoint("stop.cancelled")
        await self._registry.update(session.id, mark(session, {"cancelled_at": asked_at}))
        return True

    async def cancel_orphans(self, orphans: list[Job]) -> set[str]:
        """Cancel jobs that have a session's name but are not its job: of a late submission or of a deleted session.

        Return the ids of the sessions for which a cancel has failed now. Without an answer the next tick repeats it.
        """
        failed = set[str]()
        self._orphans = {job.id: self._orphans[job.id] for job in orphans if job.id in self._orphans}
        known = {s.id: s for s in await self._registry.by_ids({session_id(job) for job in orphans})}
        for job in orphans:
            session = known.get(session_id(job))
            if session is None or session.owner != job.user or self._submitter.under_way(session.id):
                continue
            if is_held_job(session, job) or (job.id == session.job.job_id and session.state in LIVE):
                continue  # it waits for the session's next run, or became the session's job after the query
            if is_newer(job, session):
                text = f"job {job.id} is newer than the registry {session.log_name}: `berth registry rebuild` adopts it"
                self._lasting.report(f"newer {job.id}", logging.WARNING, text)
                continue
            if clock.monotonic() - self._orphans.get(job.id, -CANCEL_RETRY_S) < CANCEL_RETRY_S:
                continue
            text = f"cancelling job {job.id}: it has the name of a session but is not its job {session.log_name}"
            self._lasting.report(f"orphan {job.id}", logging.WARNING, text)
            try:
                await self._scheduler.cancel(job.id)
            except NoAnswer:
                failed.add(session.id)
                continue
            except Refused:
                failed.add(session.id)
            self._orphans[job.id] = clock.monotonic()
        return failed
