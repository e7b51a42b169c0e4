"""Operations on a session's volumes: snapshot, rollback, switch, clone, report and root mode.

Each call that changes something checks what can be checked, records the intent with the change of state, and has it
carried out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import with_user_errors
from broker.controller.registry.manifest import CHANGING, Target
from broker.controller.registry.models import Session
from broker.controller.registry.operation import Operation
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions import access
from broker.errors import ConflictError, NotFoundError
from broker.images import published_image, require_image
from broker.launcher.arguments import DiffArguments
from broker.names import new_id
from broker.schema.operations import permission_for
from broker.schema.permissions import Permission
from broker.schema.sessions import LIVE, STARTABLE, SessionState
from profiles.image.store import PACKAGES
from profiles.userfile import read_text

if TYPE_CHECKING:
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.maintenance import Maintenance
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.limits import Limits
    from broker.controller.sessions.pending import PendingOperations
    from broker.schema.sessions import SessionView
    from broker.schema.volumes import (
        CloneRequest,
        DiffReport,
        RollbackRequest,
        SizeReport,
        SnapshotRequest,
        SnapshotView,
        SwitchRequest,
        VerifyReport,
    )
    from profiles.image.store import Image, Stores

PACKAGES_BYTES = 2 * 2**20
"""Limit for an image's packages.txt: 50,000 packages. A request to the launcher holds it (launcher.LINE_LIMIT)."""


class Snapshots:
    """Requests for volumes. Each call asks `access` first, and no call raises LauncherError."""

    def __init__(
        self,
        *,
        registry: AsyncRegistry,
        stores: Stores,
        launcher: LauncherClient,
        maintenance: Maintenance,
        pending: PendingOperations,
        limits: Limits,
    ) -> None:
        self._registry = registry
        self._stores = stores
        self._launcher = launcher
        self._maintenance = maintenance
        self._pending = pending
        self._limits = limits

    async def snapshot(self, user: str, name: str, request: SnapshotRequest) -> SessionView:
        """Take a snapshot of both volumes. The session may be running."""
        session = await self._resolve(user, name, permission_for("snapshot"))
        check_free(session)
        label = request.label or ""
        if label and any(each.label == label for each in await self._list(session)):
            raise ConflictError(f"{name} has a snapshot {label} already", hint="use another label, or delete that one")
        arguments = {"label": label, "reason": "", "automatic": False}
        return await self._begin(session, Operation.new("snapshot", user, arguments=arguments), label)

    async def snapshots(self, user: str, name: str) -> list[SnapshotView]:
        """Return the session's snapshots, oldest first."""
        return await self._list(await self._resolve(user, name, Permission.INSPECT))

    async def delete_snapshot(self, user: str, name: str, reference: str) -> SnapshotView:
        """Delete a snapshot. A background task removes the layers that only it had."""
        session = await self._resolve(user, name, Permission.FORGET)
        number = (await self._find(session, reference)).number
        deleted = await with_user_errors(
            session.name, self._launcher.delete_snapshot(session.owner, session.id, number)
        )

        def decide(_: Session) -> RowChange | None:
            return {"volumes": deleted.volumes}, EventEntry(user, "snapshot-deleted", str(number))

        await self._registry.update(session.id, decide)
        self._pending.changed()
        self._maintenance.schedule_gc(session.owner)
        return deleted.snapshot

    async def rollback(self, user: str, name: str, request: RollbackRequest) -> SessionView:
        """Roll both volumes and the image back to a snapshot, after taking a snapshot of the present state.

        A running session is stopped first and started again. RefusedError, with nothing changed, if the snapshot's
        image does not exist.
        """
        session = await self._resolve(user, name, permission_for("rollback"))
        check_free(session)
        snapshot = await self._find(session, request.snapshot)
        image = await self._image_of(snapshot)
        to = Target.of(image, session.policy if session.persistence_chosen else None)
        arguments = {"snapshot": snapshot.number, "to": to.model_dump(mode="json")}
        return await self._begin(
            session, Operation.new("rollback", user, arguments=arguments), f"to snapshot {snapshot.number}"
        )

    async def switch(self, user: str, name: str, request: SwitchRequest) -> SessionView:
        """Switch the session to another image, after taking a snapshot of the present state.

        The session keeps its home. It gets the system volume that it last had with that image, if any. A running
        session is stopped first and started again.
        """
        session = await self._resolve(user, name, permission_for("switch"))
        check_free(session)
        image = await asyncio.to_thread(published_image, self._stores, request.profile, request.version)
        if (image.name, image.version) == (session.profile, session.version) and not request.fresh:
            raise ConflictError(
                f"{name} is on {image.name}@{image.version} already", hint="--fresh begins with an empty system"
            )
        kept = session.policy if session.persistence_chosen else None
        to = Target.of(image, request.persistence or kept)
        arguments = {"to": to.model_dump(mode="json"), "fresh": request.fresh}
        return await self._begin(
            session, Operation.new("switch", user, arguments=arguments), f"to {image.name}@{image.version}"
        )

    async def clone(self, user: str, name: str, request: CloneRequest) -> SessionView:
        """Create a session from this one's volumes, present ones or those of a snapshot. Start it if requested.

        ConflictError if the name is taken. A failed clone leaves nothing behind.
        """
        source = await self._resolve(user, name, permission_for("clone"))
        if await self._registry.find(user, request.name) is not None:
            raise ConflictError(f"you have a session named {request.name} already", hint="give the clone another name")
        snapshot = None if request.at is None else await self._find(source, request.at)
        if snapshot is None:
            check_free(source)
            check_copyable(source)
        if request.profile is not None:
            image = await asyncio.to_thread(published_image, self._stores, request.profile, request.version)
        elif request.version is not None:
            profile = source.profile if snapshot is None else snapshot.profile
            image = await asyncio.to_thread(published_image, self._stores, profile, request.version)
        elif snapshot is not None:
            image = await self._image_of(snapshot)
        else:
            image = await asyncio.to_thread(require_image, self._stores, *source.image.values())
        before = source.digest if snapshot is None else snapshot.digest
        to = Target.of(image, source.policy if source.persistence_chosen else None)
        arguments = {
            "source": source.id,
            "name": source.name,
            "snapshot": None if snapshot is None else snapshot.number,
            "job_id": source.job.job_id if source.state is SessionState.READY else None,
            "copy": new_id(),
            "of": source.image,
            "switched": image.digest != before,
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
            operation=Operation.new("clone", user, arguments=arguments, start=request.start).record(),
        )
        async with self._limits.lock(user):
            await self._limits.check_another(user)
            await self._limits.check_storage(user)
            if request.start:
                await self._limits.check_start(user, source.job.gpus)
            clone = await self._registry.create(clone, EventEntry(user, "clone", f"of {name}"))
        return await self._pending.start_operation(clone)

    async def diff(self, user: str, name: str, reference: str | None, *, content: bool = False) -> DiffReport:
        """Compare with a snapshot or with the profile. With `content`, read files of equal metadata, too."""
        session = await self._resolve(user, name, Permission.INSPECT)
        number = None if reference is None else (await self._find(session, reference)).number
        base = f"profile {session.profile}@{session.version}" if number is None else f"snapshot {number}"
        image = await asyncio.to_thread(require_image, self._stores, *session.image.values())
        packages = await asyncio.to_thread(_packages, image)
        arguments = DiffArguments(
            session=session.id,
            snapshot=number,
            base_packages=packages,
            image=str(image.path),
            offset=image.offset,
            content=content,
        )
        report = await with_user_errors(session.name, self._launcher.diff(session.owner, arguments, base=base))
        roots = {"home": f"/home/{session.owner}", "system": ""}
        files = [file.model_copy(update={"path": f"{roots[file.volume]}/{file.path}"}) for file in report.files]
        return report.model_copy(update={"files": files})

    async def size(self, user: str, name: str) -> SizeReport:
        session = await self._resolve(user, name, Permission.INSPECT)
        return await with_user_errors(session.name, self._launcher.size(session.owner, session.id))

    async def verify(self, user: str, name: str) -> VerifyReport:
        """Read every layer and compare it with its checksums."""
        session = await self._resolve(user, name, Permission.INSPECT)
        return await with_user_errors(session.name, self._launcher.verify(session.owner, session.id))

    async def flatten(self, user: str, name: str) -> SessionView:
        """Join the session's layers into few, in the background."""
        session = await self._resolve(user, name, Permission.FLATTEN)
        check_free(session)
        if session.state not in STARTABLE:
            raise ConflictError(
                f"{name} is {session.state.value}",
                hint=f"`berth stop {name}` first; a stop flattens deep stacks by itself",
            )
        return await self._pending.wait_for_task(session, self._maintenance.flatten(session))

    async def root(self, user: str, name: str) -> SessionView:
        """Start the session in root mode. A running session is stopped first."""
        session = await self._resolve(user, name, permission_for("root"))
        if session.root and session.state in LIVE - {SessionState.STOPPING}:
            return self._pending.view(session)
        return await self._begin(session, Operation.new("root", user, start=True), "")

    async def commit_root(self, user: str, name: str) -> SessionView:
        """Keep the changes that were made in root mode. The snapshot from its start remains."""
        session = await self._resolve(user, name, permission_for("commit-root"))
        if not (session.root and session.state is SessionState.READY):
            raise ConflictError(
                f"{name} is not ready in root mode", hint=f"`berth exec --root {name} -- COMMAND` does it"
            )
        before = session.last_operation.snapshot if session.last_operation is not None else None
        return await self._begin(session, Operation.new("commit-root", user, arguments={"before": before}), "")

    async def _begin(self, session: Session, operation: Operation, detail: str) -> SessionView:
        decide = _begun(operation, EventEntry(operation.actor, operation.verb, detail))
        session = await self._registry.update(session.id, decide)
        return await self._pending.start_operation(session)

    async def _resolve(self, user: str, name: str, permission: Permission) -> Session:
        return await access.resolve_own(self._registry, user, name, permission)

    async def _list(self, session: Session) -> list[SnapshotView]:
        return (await with_user_errors(session.name, self._launcher.snapshots(session.owner, session.id)))[0]

    async def _find(self, session: Session, reference: str) -> SnapshotView:
        for snapshot in await self._list(session):
            if reference in {str(snapshot.number), snapshot.label}:
                return snapshot
        raise NotFoundError(
            f"{session.name} has no snapshot {reference}", hint=f"`berth snapshots {session.name}` lists them"
        )

    async def _image_of(self, snapshot: SnapshotView) -> Image:
        return await asyncio.to_thread(require_image, self._stores, snapshot.profile, snapshot.version, snapshot.digest)


def _packages(image: Image) -> str:
    """Return the list of an image's packages; empty if the image has none."""
    try:
        return read_text(image.directory / PACKAGES, PACKAGES_BYTES, own=False, follow=True)
    except OSError:
        return ""  # then every package counts as added


def check_free(session: Session) -> None:
    """Raise ConflictError while another operation on the volumes is pending."""
    pending = session.pending
    if pending is not None:
        raise pending.conflict(session.name)
    if session.root:
        raise ConflictError(
            f"{session.name} is in root mode, for `berth exec --root`", hint=f"`berth stop {session.name}` ends it"
        )


def check_copyable(session: Session) -> None:
    """Raise ConflictError unless the session is ready or without a job: else neither can copy its volumes."""
    if session.state not in STARTABLE | {SessionState.READY}:
        raise ConflictError(f"{session.name} is {session.state.value}", hint="try again when it is ready, or stopped")


def _begun(operation: Operation, entry: EventEntry) -> Transition:
    """Record the operation. A session without a job is changing at once.

    A running one is changing after its job's end; operations that need a stopped session request that end. `entry`
    goes into the event log.
    """

    def decide(current: Session) -> RowChange | None:
        if operation.kind.job == "required":
            if current.pending is not None or not current.root or current.state is not SessionState.READY:
                raise ConflictError(f"{current.name} is no longer ready in root mode")
            return {"operation": operation.record()}, entry
        check_free(current)
        if current.state in STARTABLE:
            record = operation.replace(state=current.state, why=current.reason).record()
            return {"state": SessionState.CHANGING, "reason": CHANGING, "operation": record}, entry
        if current.state not in LIVE:
            raise ConflictError(f"{current.name} is {current.state.value}")
        if current.state is SessionState.STOPPING:
            return {"operation": operation.record()}, entry
        if operation.kind.needs_stopped:
            values = {"state": SessionState.STOPPING, "reason": f"stopped for the {operation.verb}, then started again"}
            return values | {"operation": operation.replace(start=True, ran=True).record()}, entry
        check_copyable(current)
        return {"operation": operation.record()}, entry

    return decide
