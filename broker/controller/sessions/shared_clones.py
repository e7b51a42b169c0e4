"""Create a session from a snapshot that another user has shared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.controller import clock
from broker.controller.registry.manifest import CHANGING, ImageTarget
from broker.controller.registry.models import Session
from broker.controller.registry.operation import Operation
from broker.controller.registry.registry import EventEntry
from broker.errors import BerthError, ConflictError, NotFoundError, RefusedError
from broker.names import new_id
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.limits import Limits
    from broker.controller.sessions.pending import PendingOperations
    from broker.controller.sessions.snapshot_lookup import SnapshotLookup
    from broker.schema.sessions import SessionView
    from broker.schema.volumes import CloneRequest, SnapshotView
    from profiles.image.store import Image


class SharedCloneService:
    """Requests for clones of other users' snapshots. `clone` asks `access` first, and raises no LauncherError."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        images: ImageFinder,
        submitter: Submitter,
        lookup: SnapshotLookup,
        pending: PendingOperations,
        limits: Limits,
        driver: str,
    ) -> None:
        """`driver`: the storage driver of new sessions, as in StorageSettings."""
        self._access = access
        self._registry = registry
        self._images = images
        self._submitter = submitter
        self._lookup = lookup
        self._pending = pending
        self._limits = limits
        self._driver = driver

    async def clone(self, user: str, name: str, request: CloneRequest) -> SessionView:
        """Create a session of `user` from a snapshot of the session `OWNER.NAME`. Start it if requested.

        It is the user's alone: in the user's storage, with the user's limits and the options of a new session. The
        owner's events name the user, the snapshot and the new session from now on, also if the clone fails: the user
        may have read the files nevertheless.
        """
        self._access.check_sharing()
        source, number = await self._access.resolve_snapshot(user, name, request.at)
        if await self._registry.find(user, request.name) is not None:
            raise ConflictError(f"you have a session named {request.name} already", hint="give the clone another name")
        snapshot = await self._find(source, number, name)
        image = await self._image(user, snapshot, name, request)
        gpus = self._submitter.check(image.profile, []) if request.start else 0.0
        async with self._limits.lock(user):
            await self._limits.check_another(user)
            if request.start:
                await self._limits.check_start(user, gpus)
            arguments = await self._arguments(user, source, snapshot, image)
            clone = _new_session(user, image, request, arguments | {"gpus": gpus})
            await self._registry.record(
                source, EventEntry(user, "clone", f"snapshot {number} as {user}.{request.name}")
            )
            clone = await self._registry.create(clone, EventEntry(user, "clone", f"of snapshot {number} of {name}"))
        return await self._pending.start_operation(clone)

    async def _find(self, source: Session, number: int, name: str) -> SnapshotView:
        try:
            return await self._lookup.find(source, str(number))
        except NotFoundError:
            raise NotFoundError(
                f"snapshot {number} of {name} does not exist any more", hint=f"ask {source.owner} for another one"
            ) from None

    async def _image(self, user: str, snapshot: SnapshotView, name: str, request: CloneRequest) -> Image:
        """Return the image of the snapshot, or the one that is requested. RefusedError if `user` may not use it."""
        if request.profile is not None or request.version is not None:
            return await self._images.find_image(user, request.profile or snapshot.profile, request.version)
        try:
            return await self._images.require_image(user, snapshot.profile, snapshot.version, snapshot.digest)
        except BerthError as error:
            raise RefusedError(
                f"{name} is on the profile {snapshot.profile}@{snapshot.version}, which you cannot use",
                hint=f"ask its owner to publish it, or clone the home alone: `berth clone {name} {request.name} "
                f"--at {snapshot.number} --profile PROFILE`",
            ) from error

    async def _arguments(self, user: str, source: Session, snapshot: SnapshotView, image: Image) -> dict[str, Any]:
        return {
            "owner": source.owner,
            "source": source.id,
            "name": source.full_name,
            "snapshot": snapshot.number,
            "system": image.digest == snapshot.digest,
            "driver": self._driver,
            "most_bytes": await self._limits.storage_left(user),
        }


def _new_session(user: str, image: Image, request: CloneRequest, arguments: dict[str, Any]) -> Session:
    now = clock.now()
    return Session(
        **ImageTarget.of(image).columns(),
        id=new_id(now),
        name=request.name,
        owner=user,
        state=SessionState.CHANGING,
        reason=CHANGING,
        options=[],
        created_at=now,
        used_at=now,
        operation=Operation.create("clone", user, arguments=arguments, start=request.start).record(),
    )
