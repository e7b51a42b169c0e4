"""Create a session from another one's volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.registry.manifest import CHANGING, ImageTarget
from broker.controller.registry.models import Session
from broker.controller.registry.operation import Operation
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.preconditions import check_source
from broker.controller.sessions.upgrades import follow_of
from broker.errors import ConflictError
from broker.names import new_id, split_reference
from broker.schema.operations import permission_for
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.running_copies import RunningCopies
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.limits import Limits
    from broker.controller.sessions.operation_requests import OperationRequests
    from broker.controller.sessions.pending import PendingOperations
    from broker.controller.sessions.shared_clones import SharedCloneService
    from broker.controller.sessions.snapshot_lookup import SnapshotLookup
    from broker.schema.sessions import SessionView
    from broker.schema.volumes import CloneRequest


class CloneService:
    """Requests for clones. `clone` asks `access` first, and raises no LauncherError."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        copies: RunningCopies,
        images: ImageFinder,
        submitter: Submitter,
        requests: OperationRequests,
        lookup: SnapshotLookup,
        pending: PendingOperations,
        limits: Limits,
        shared: SharedCloneService,
    ) -> None:
        self._access = access
        self._registry = registry
        self._copies = copies
        self._images = images
        self._submitter = submitter
        self._requests = requests
        self._lookup = lookup
        self._pending = pending
        self._limits = limits
        self._shared = shared

    async def clone(self, user: str, name: str, request: CloneRequest) -> SessionView:
        """Create a session from this one's volumes, present ones or those of a snapshot. Start it if requested.

        `OWNER.NAME` names a snapshot that another user has shared. ConflictError if the name is taken. A failed clone
        leaves nothing behind.
        """
        if split_reference(name, user)[0] != user:
            return await self._shared.clone(user, name, request)
        source = await self._access.resolve(user, name, permission_for("clone"))
        with self._copies.of(source.id):  # until the clone has a row, which postpones a takeover from then on
            clone = await self._create_clone(user, await self._registry.require(source.id), request)
        return await self._pending.start_operation(clone)

    async def _create_clone(self, user: str, source: Session, request: CloneRequest) -> Session:
        if await self._registry.find(user, request.name) is not None:
            raise ConflictError(f"you have a session named {request.name} already", hint="give the clone another name")
        snapshot = None if request.at is None else await self._lookup.find(source, request.at)
        if snapshot is None:
            check_source(source)
        former = source if snapshot is None else snapshot
        if request.profile is not None or request.version is not None:
            image = await self._images.find_image(user, request.profile or former.profile, request.version)
        else:
            image = await self._requests.image(source, former.profile, former.version, former.digest)
        if request.start:
            self._submitter.check(image.profile, source.options)
        other = request.profile is not None or request.version is not None
        follow = follow_of(request.version) if other else source.follow
        to = ImageTarget.of(image, source.policy if source.persistence_chosen else None, follow=follow)
        arguments = {
            "source": source.id,
            "name": source.name,
            "snapshot": None if snapshot is None else snapshot.number,
            "job_id": source.job.job_id if source.state is SessionState.READY else None,
            "copy": new_id(),
            "of": source.image,
            "switched": image.digest != former.digest,
            "gpus": source.job.gpus,
        }
        now = clock.now()
        clone = Session(
            **to.columns(),
            id=new_id(now),
            name=request.name,
            owner=user,
            state=SessionState.CHANGING,
            reason=CHANGING,
            options=source.options,
            created_at=now,
            used_at=now,
            operation=Operation.create("clone", user, arguments=arguments, start=request.start).record(),
        )
        async with self._limits.lock(user):
            await self._limits.check_another(user)
            await self._limits.check_storage(user)
            if request.start:
                await self._limits.check_start(user, source.job.gpus)
            return await self._registry.create(clone, EventEntry(user, "clone", f"of {source.name}"))
