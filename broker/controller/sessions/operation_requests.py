"""Plan an operation on a session, and begin it: what all requests for operations share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import with_user_errors
from broker.controller.reconcile.held_jobs import can_be_held
from broker.controller.registry.manifest import CHANGING
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.planned_change import NextJob, PlannedChange, has_next_job
from broker.controller.sessions.preconditions import check_copyable, check_free, resize_conflict
from broker.errors import BerthError, ConflictError
from broker.schema.sessions import LIVE, STARTABLE, SessionState

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.operation import Operation
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.pending import PendingOperations
    from broker.schema.sessions import SessionView
    from profiles.image.store import Image


class OperationRequests:
    """The way of an operation from its checked arguments to its record. No call raises LauncherError."""

    def __init__(
        self, *, registry: AsyncRegistry, images: ImageFinder, submitter: Submitter, pending: PendingOperations
    ) -> None:
        self._registry = registry
        self._images = images
        self._submitter = submitter
        self._pending = pending

    def plan(
        self,
        session: Session,
        operation: Operation,
        detail: str,
        next_image: Image | None = None,
        *,
        same: bool = False,
    ) -> PlannedChange:
        """Plan an operation. A session with a job continues with `next_image`; RefusedError if it could not.

        `same`: the next job would request the same resources, so that the present one may be kept.
        """
        job = None
        if next_image is not None:
            job = NextJob(next_image.profile, session.options)
            if has_next_job(session):
                self._submitter.check(job.profile, job.options)
        decide = _begin_operation(operation, EventEntry(operation.actor, operation.verb, detail), same=same)
        keeps_job = same and operation.kind.needs_stopped and can_be_held(session, clock.now())
        return PlannedChange(session, decide, job, keeps_job)

    async def begin(self, plan: PlannedChange) -> SessionView:
        """Record the operation and have it carried out. ConflictError if the session does not allow it any more."""
        session = await self._registry.update(plan.session.id, plan.decide)
        return await self._pending.start_operation(session)

    def view(self, session: Session) -> SessionView:
        """Return the session as the API shows it."""
        return self._pending.view(session)

    async def image(self, session: Session, profile: str, version: str, digest: str) -> Image:
        """Return exactly that image. RefusedError if it does not exist."""
        return await with_user_errors(session.name, self._images.require_image(session.owner, profile, version, digest))

    async def has_same_resources(self, session: Session, image: Image) -> bool:
        """Whether a job with that image would request what the session's job did."""
        if session.options != session.job.options:
            return False
        if (image.name, image.version, image.digest) == tuple(session.image.values()):
            return True
        try:
            present = await self.image(session, *session.image.values())
        except BerthError:
            return False
        options = self._submitter.options
        return options(present.profile, session.options) == options(image.profile, session.options)


def _begin_operation(operation: Operation, entry: EventEntry, *, same: bool = False) -> Transition:
    """Record the operation. A session without a job is changing at once.

    A running one is changing after its job's end; operations that need a stopped session request that end, or with
    `same` resources that the job waits. `entry` goes into the event log.
    """

    def decide(current: Session) -> RowChange | None:
        if operation.kind.job == "required":
            if current.pending is not None or not current.root or current.state is not SessionState.READY:
                raise ConflictError(f"{current.name} is no longer ready in root mode")
            return {"operation": operation.record()}, entry
        check_free(current, root=operation.kind.ends_root_mode)
        if current.state in STARTABLE:
            record = operation.replace(state=current.state, why=current.reason).record()
            return {"state": SessionState.CHANGING, "reason": CHANGING, "operation": record}, entry
        if current.state not in LIVE:
            raise ConflictError(f"{current.name} is {current.state.value}")
        if current.state is SessionState.STOPPING:
            return {"operation": operation.record()}, entry
        if operation.kind.needs_stopped:
            if current.resizing:
                raise resize_conflict(current)
            values = {"state": SessionState.STOPPING, "reason": f"stopped for the {operation.verb}, then started again"}
            in_job = same and can_be_held(current, clock.now())
            return values | {"operation": operation.replace(start=True, ran=True, in_job=in_job).record()}, entry
        check_copyable(current)
        return {"operation": operation.record()}, entry

    return decide
