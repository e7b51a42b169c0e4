"""Ask Slurm when it would start a session's next job, if that were submitted now."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError
from broker.errors import RefusedError
from broker.schema.checks import StartEstimate
from slurm.queue_position import startable_jobs
from slurm.scheduler import NoAnswer

if TYPE_CHECKING:
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.models import Session
    from broker.controller.sessions.planned_change import NextJob
    from slurm.scheduler import Scheduler

log = logging.getLogger(__name__)

ESTIMATE_TIMEOUT_S = 4.0
"""Seconds that a check waits for Slurm, while a user waits for the question."""
LAUNCHER_MARGIN_S = 2.0
"""Further seconds for a place in the launcher, and for its process."""
WAITING_TTL_S = 5.0
"""Seconds for which one query for all waiting jobs serves all checks: slurmctld must not notice many of them."""
LEAST_BESIDE_S = 120.0
"""Seconds before the end of the present job by which the next one must start: a later one waits for that end."""
UNLIMITED_S = 30 * 86400.0
"""Seconds for which a present job without a time limit counts as running: Slurm expects its end a year ahead."""


class StartEstimates:
    """Estimates of starts, with the resources of the present jobs as taken."""

    def __init__(self, *, submitter: Submitter, launcher: LauncherClient, scheduler: Scheduler) -> None:
        self._submitter = submitter
        self._launcher = launcher
        self._scheduler = scheduler
        self._querying = asyncio.Lock()
        self._waiting_at = -WAITING_TTL_S
        self._waiting_jobs = frozenset[int]()

    async def estimate(self, session: Session, job: NextJob) -> StartEstimate | None:
        """Ask Slurm as the session's owner; None without an answer in time."""
        try:
            options = self._submitter.options(job.profile, job.options)
            async with asyncio.timeout(ESTIMATE_TIMEOUT_S + LAUNCHER_MARGIN_S):
                answer = await self._launcher.estimate(session.owner, session.id, options, limit=ESTIMATE_TIMEOUT_S)
                waiting = await self._count_waiting_jobs(session)
        except (LauncherError, RefusedError, TimeoutError) as error:
            log.info("no estimate of a start session=%s error=%s", session.id, error)
            return None
        return StartEstimate(at=answer.start_at, refusal=answer.refusal, waiting=waiting)

    async def _count_waiting_jobs(self, session: Session) -> int | None:
        try:
            async with self._querying:
                if clock.monotonic() - self._waiting_at >= WAITING_TTL_S:
                    queue = await self._scheduler.queue()
                    self._waiting_jobs = frozenset(job.id for job in startable_jobs(queue))
                    self._waiting_at = clock.monotonic()
        except NoAnswer:
            return None
        return len(self._waiting_jobs - {session.job.job_id, session.next_job_id})


def fits_beside(session: Session, estimate: StartEstimate | None) -> bool:
    """Whether Slurm expects to start the next job while the session's present job runs, and not because that ends."""
    if estimate is None or estimate.at is None:
        return False
    ends_at = session.job.ends_at
    return estimate.at < (clock.now() + UNLIMITED_S if ends_at is None else ends_at - LEAST_BESIDE_S)
