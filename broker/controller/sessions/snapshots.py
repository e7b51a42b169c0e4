"""Requests for a session's snapshots and layers: take, list, delete, roll back, compare, measure, verify, flatten.

Each call that changes something checks what can be checked, records the intent with the change of state, and has it
carried out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import with_user_errors
from broker.controller.registry.manifest import ImageTarget
from broker.controller.registry.operation import Operation
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.guest_view import limits_of
from broker.controller.sessions.planned_change import PlannedChange
from broker.controller.sessions.preconditions import check_free
from broker.errors import ConflictError, RefusedError
from broker.launcher.arguments import DiffArguments
from broker.schema.operations import permission_for
from broker.schema.permissions import Permission
from broker.schema.sessions import STARTABLE

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.maintenance import Maintenance
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.limits import Limits
    from broker.controller.sessions.operation_requests import OperationRequests
    from broker.controller.sessions.pending import PendingOperations
    from broker.controller.sessions.shares import ShareService
    from broker.controller.sessions.snapshot_lookup import SnapshotLookup
    from broker.schema.sessions import SessionView
    from broker.schema.volumes import (
        DiffReport,
        RollbackRequest,
        SizeReport,
        SnapshotRequest,
        SnapshotView,
        VerifyReport,
    )


class Snapshots:
    """Requests for volumes. Each call asks `access` first, and no call raises LauncherError."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        images: ImageFinder,
        launcher: LauncherClient,
        requests: OperationRequests,
        lookup: SnapshotLookup,
        maintenance: Maintenance,
        pending: PendingOperations,
        limits: Limits,
        shares: ShareService,
    ) -> None:
        self._access = access
        self._registry = registry
        self._images = images
        self._launcher = launcher
        self._requests = requests
        self._lookup = lookup
        self._maintenance = maintenance
        self._pending = pending
        self._limits = limits
        self._shares = shares

    async def snapshot(self, user: str, name: str, request: SnapshotRequest) -> SessionView:
        """Take a snapshot of both volumes. The session may be running."""
        session = await self._access.resolve(user, name, permission_for("snapshot"))
        check_free(session)
        label = request.label or ""
        if user != session.owner:
            if label:
                raise RefusedError("a guest's snapshot has no label", hint=f"`berth snapshot {name}` takes it")
            with limits_of(session.owner, user):
                await self._limits.check_storage(session.owner)
        if label and any(each.label == label for each in await self._lookup.all(session)):
            raise ConflictError(f"{name} has a snapshot {label} already", hint="use another label, or delete that one")
        arguments = {"label": label, "reason": "", "automatic": False}
        return await self._requests.begin(
            self._requests.plan(session, Operation.create("snapshot", user, arguments=arguments), label)
        )

    async def snapshots(self, user: str, name: str) -> list[SnapshotView]:
        """Return the session's snapshots, oldest first."""
        return await self._lookup.all(await self._access.resolve(user, name, Permission.INSPECT))

    async def plan_deletion(self, user: str, name: str, reference: str) -> PlannedChange:
        """Check that the snapshot exists."""
        session = await self._access.resolve(user, name, Permission.FORGET)
        await self._lookup.find(session, reference)
        return PlannedChange(session, lambda _: None)

    async def delete_snapshot(self, user: str, name: str, reference: str) -> SnapshotView:
        """Delete a snapshot. A background task removes the layers that only it had."""
        session = await self._access.resolve(user, name, Permission.FORGET)
        number = (await self._lookup.find(session, reference)).number
        deleted = await with_user_errors(
            session.name, self._launcher.delete_snapshot(session.owner, session.id, number)
        )

        def decide(_: Session) -> RowChange | None:
            return {"volumes": deleted.volumes}, EventEntry(user, "snapshot-deleted", str(number))

        await self._registry.update(session.id, decide)
        await self._shares.forget_snapshot(user, session.id, number)
        self._pending.wake()
        self._maintenance.schedule_gc(session.owner)
        return deleted.snapshot

    async def rollback(self, user: str, name: str, request: RollbackRequest) -> SessionView:
        """Roll both volumes and the image back to a snapshot, after taking a snapshot of the present state.

        A running session is stopped first and started again. RefusedError, with nothing changed, if the snapshot's
        image does not exist.
        """
        return await self._requests.begin(await self.plan_rollback(user, name, request))

    async def plan_rollback(self, user: str, name: str, request: RollbackRequest) -> PlannedChange:
        """Check everything that `rollback` checks."""
        session = await self._access.resolve(user, name, permission_for("rollback"))
        check_free(session)
        snapshot = await self._lookup.find(session, request.snapshot)
        image = await self._requests.image(session, snapshot.profile, snapshot.version, snapshot.digest)
        kept = session.policy if session.persistence_chosen else None
        to = ImageTarget.of(image, kept, follow=session.follow)
        arguments = {"snapshot": snapshot.number, "to": to.model_dump(mode="json")}
        operation = Operation.create("rollback", user, arguments=arguments)
        same = await self._requests.has_same_resources(session, image)
        return self._requests.plan(session, operation, f"to snapshot {snapshot.number}", image, same=same)

    async def diff(
        self, user: str, name: str, reference: str | None, until: str | None = None, *, content: bool = False
    ) -> DiffReport:
        """Compare the present state, or the snapshot `until`, with a snapshot or the profile; `content` reads files."""
        session = await self._access.resolve(user, name, Permission.INSPECT)
        number = None if reference is None else (await self._lookup.find(session, reference)).number
        end = None if until is None else await self._lookup.find(session, until)
        profile, version, digest = session.image.values() if end is None else (end.profile, end.version, end.digest)
        base = f"profile {profile}@{version}" if number is None else f"snapshot {number}"
        image = await self._requests.image(session, profile, version, digest)
        packages = await with_user_errors(name, self._images.packages(session.owner, image))
        arguments = DiffArguments(
            session=session.id,
            snapshot=number,
            until=None if end is None else end.number,
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
        session = await self._access.resolve(user, name, Permission.INSPECT)
        return await with_user_errors(session.name, self._launcher.size(session.owner, session.id))

    async def verify(self, user: str, name: str) -> VerifyReport:
        """Read every layer and compare it with its checksums."""
        session = await self._access.resolve(user, name, Permission.INSPECT)
        return await with_user_errors(session.name, self._launcher.verify(session.owner, session.id))

    async def flatten(self, user: str, name: str) -> SessionView:
        """Join the session's layers into few, in the background."""
        session = await self._access.resolve(user, name, Permission.FLATTEN)
        check_free(session)
        if session.state not in STARTABLE:
            raise ConflictError(
                f"{name} is {session.state.value}",
                hint=f"`berth stop {name}` first; a stop flattens deep stacks by itself",
            )
        return await self._pending.wait_for_task(session, self._maintenance.flatten(session))
