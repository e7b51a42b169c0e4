"""Check requests without carrying them out, so that a client can ask its user afterwards.

Each check runs the code of the request itself, up to its first change. If the request ends a job and starts another
one, the report has the time at which Slurm expects to start that job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller.sessions.resize import check_present_job
from broker.controller.sessions.start_estimates import fits_beside
from broker.controller.sessions.switch_preview import preview_switch
from broker.schema.checks import CheckReport

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.sessions.container_changes import ContainerChanges
    from broker.controller.sessions.lifecycle import Sessions
    from broker.controller.sessions.pending import PendingOperations
    from broker.controller.sessions.planned_change import PlannedChange
    from broker.controller.sessions.resize import ResizeService
    from broker.controller.sessions.snapshots import Snapshots
    from broker.controller.sessions.start_estimates import StartEstimates
    from broker.controller.sessions.upgrades import UpgradeService
    from broker.schema.checks import CheckRequest


class RequestChecks:
    """Checks of requests. The services that check ask `access` first."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        snapshots: Snapshots,
        container_changes: ContainerChanges,
        upgrades: UpgradeService,
        resize: ResizeService,
        images: ImageFinder,
        submitter: Submitter,
        estimates: StartEstimates,
        pending: PendingOperations,
    ) -> None:
        self._sessions = sessions
        self._snapshots = snapshots
        self._container_changes = container_changes
        self._upgrades = upgrades
        self._resize = resize
        self._images = images
        self._submitter = submitter
        self._estimates = estimates
        self._pending = pending

    async def check(self, user: str, name: str, request: CheckRequest) -> CheckReport:
        """Return if the request would be accepted now; otherwise raise its error. Nothing is changed."""
        plan = await self._plan(user, name, request)
        plan.check()
        estimate = None
        if request.estimate and plan.ends_job and not plan.keeps_job and plan.next_job is not None:
            estimate = await self._estimates.estimate(plan.session, plan.next_job)
        resize, beside = request.resize, False
        if resize is not None and plan.next_job is not None and request.estimate:
            beside = resize.present_job != "end" and fits_beside(plan.session, estimate)
            check_present_job(plan.session, resize.options, resize.present_job, beside=beside)
        preview = None
        if request.switch is not None and plan.next_job is not None:
            chosen = request.switch.persistence
            preview = await preview_switch(plan.session, plan.next_job, chosen, self._images, self._submitter)
        return CheckReport(
            session=self._pending.view(plan.session),
            ends_job=plan.ends_job,
            keeps_job=plan.keeps_job,
            unchanged=resize is not None and plan.next_job is None,
            switch=preview,
            beside=beside,
            estimate=estimate,
        )

    async def _plan(self, user: str, name: str, request: CheckRequest) -> PlannedChange:
        if request.resize is not None:
            return await self._resize.plan(user, name, request.resize.options)
        if request.restart:
            return await self._container_changes.plan_restart(user, name)
        if request.delete:
            return await self._sessions.plan_deletion(user, name)
        return await self._plan_for_volumes(user, name, request)

    async def _plan_for_volumes(self, user: str, name: str, request: CheckRequest) -> PlannedChange:
        if request.rollback is not None:
            return await self._snapshots.plan_rollback(user, name, request.rollback)
        if request.switch is not None:
            return await self._container_changes.plan_switch(user, name, request.switch)
        if request.upgrade is not None:
            return await self._upgrades.plan_upgrade(user, name, request.upgrade)
        if request.delete_snapshot is not None:
            return await self._snapshots.plan_deletion(user, name, request.delete_snapshot)
        return await self._container_changes.plan_root(user, name)
