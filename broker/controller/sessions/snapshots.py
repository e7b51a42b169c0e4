"""Operations on a session's volumes: snapshot, rollback, switch, clone, report and root mode.

Each call that changes something checks what can be checked, records the intent with the change of state, and has it
carried out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import with_user_errors
from broker.controller.reconcile.held_jobs import can_be_held
from broker.controller.registry.manifest import CHANGING, ImageTarget
from broker.controller.registry.models import Session
from broker.controller.registry.operation import Operation
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.guest_view import limits_of
from broker.controller.sessions.planned_change import NextJob, PlannedChange, has_next_job
from broker.controller.sessions.preconditions import check_copyable, check_free, check_source, resize_conflict
from broker.errors import BerthError, ConflictError, NotFoundError, RefusedError
from broker.launcher.arguments import DiffArguments
from broker.names import new_id
from broker.schema.operations import permission_for
from broker.schema.permissions import Permission
from broker.schema.sessions import LIVE, STARTABLE, SessionState

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.maintenance import Maintenance
    from broker.controller.reconcile.running_copies import RunningCopies
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.access import SessionAccess
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
    from profiles.image.store import Image


class Snapshots:
    """Requests for volumes. Each call asks `access` first, and no call raises LauncherError."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        copies: RunningCopies,
        images: ImageFinder,
        launcher: LauncherClient,
        submitter: Submitter,
        maintenance: Maintenance,
        pending: PendingOperations,
        limits: Limits,
    ) -> None:
        self._access = access
        self._registry = registry
        self._copies = copies
        self._images = images
        self._launcher = launcher
        self._submitter = submitter
        self._maintenance = maintenance
        self._pending = pending
        self._limits = limits

    async def snapshot(self, user: str, name: str, request: SnapshotRequest) -> SessionView:
        """Take a snapshot of both volumes. The session may be running."""
        session = await self._resolve(user, name, permission_for("snapshot"))
        check_free(session)
        label = request.label or ""
        if user != session.owner:
            if label:
                raise RefusedError("a guest's snapshot has no label", hint=f"`berth snapshot {name}` takes it")
            with limits_of(session.owner, user):
                await self._limits.check_storage(session.owner)
        if label and any(each.label == label for each in await self._list(session)):
            raise ConflictError(f"{name} has a snapshot {label} already", hint="use another label, or delete that one")
        arguments = {"label": label, "reason": "", "automatic": False}
        return await self._begin(self._plan(session, Operation.new("snapshot", user, arguments=arguments), label))

    async def snapshots(self, user: str, name: str) -> list[SnapshotView]:
        """Return the session's snapshots, oldest first."""
        return await self._list(await self._resolve(user, name, Permission.INSPECT))

    async def plan_deletion(self, user: str, name: str, reference: str) -> PlannedChange:
        """Check that the snapshot exists."""
        session = await self._resolve(user, name, Permission.FORGET)
        await self._find(session, reference)
        return PlannedChange(session, lambda _: None)

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
        self._pending.wake()
        self._maintenance.schedule_gc(session.owner)
        return deleted.snapshot

    async def rollback(self, user: str, name: str, request: RollbackRequest) -> SessionView:
        """Roll both volumes and the image back to a snapshot, after taking a snapshot of the present state.

        A running session is stopped first and started again. RefusedError, with nothing changed, if the snapshot's
        image does not exist.
        """
        return await self._begin(await self.plan_rollback(user, name, request))

    async def plan_rollback(self, user: str, name: str, request: RollbackRequest) -> PlannedChange:
        """Check everything that `rollback` checks."""
        session = await self._resolve(user, name, permission_for("rollback"))
        check_free(session)
        snapshot = await self._find(session, request.snapshot)
        image = await self._required(session, snapshot.profile, snapshot.version, snapshot.digest)
        to = ImageTarget.of(image, session.policy if session.persistence_chosen else None)
        arguments = {"snapshot": snapshot.number, "to": to.model_dump(mode="json")}
        operation = Operation.new("rollback", user, arguments=arguments)
        same = await self._has_same_resources(session, image)
        return self._plan(session, operation, f"to snapshot {snapshot.number}", image, same=same)

    async def switch(self, user: str, name: str, request: SwitchRequest) -> SessionView:
        """Switch the session to another image, after taking a snapshot of the present state.

        The session keeps its home. It gets the system volume that it last had with that image, if any. A running
        session is stopped first and started again.
        """
        return await self._begin(await self.plan_switch(user, name, request))

    async def plan_switch(self, user: str, name: str, request: SwitchRequest) -> PlannedChange:
        """Check everything that `switch` checks."""
        session = await self._resolve(user, name, permission_for("switch"))
        check_free(session)
        image = await self._images.published(user, request.profile, request.version)
        same = (image.name, image.version, image.digest) == tuple(session.image.values())
        if same and not request.fresh:
            raise ConflictError(
                f"{name} is on {image.name}@{image.version} already", hint="--fresh begins with an empty system"
            )
        kept = session.policy if session.persistence_chosen else None
        to = ImageTarget.of(image, request.persistence or kept)
        self._submitter.check(image.profile, session.options)  # also of a stopped session, which could never start
        arguments = {"to": to.model_dump(mode="json"), "fresh": request.fresh}
        operation = Operation.new("switch", user, arguments=arguments)
        same = await self._has_same_resources(session, image)
        return self._plan(session, operation, f"to {image.name}@{image.version}", image, same=same)

    async def clone(self, user: str, name: str, request: CloneRequest) -> SessionView:
        """Create a session from this one's volumes, present ones or those of a snapshot. Start it if requested.

        ConflictError if the name is taken. A failed clone leaves nothing behind.
        """
        source = await self._resolve(user, name, permission_for("clone"))
        with self._copies.of(source.id):  # until the clone has a row, which postpones a takeover from then on
            clone = await self._create_clone(user, await self._registry.require(source.id), request)
        return await self._pending.start_operation(clone)

    async def _create_clone(self, user: str, source: Session, request: CloneRequest) -> Session:
        if await self._registry.find(user, request.name) is not None:
            raise ConflictError(f"you have a session named {request.name} already", hint="give the clone another name")
        snapshot = None if request.at is None else await self._find(source, request.at)
        if snapshot is None:
            check_source(source)
        former = source if snapshot is None else snapshot
        if request.profile is not None or request.version is not None:
            image = await self._images.published(user, request.profile or former.profile, request.version)
        else:
            image = await self._required(source, former.profile, former.version, former.digest)
        if request.start:
            self._submitter.check(image.profile, source.options)
        to = ImageTarget.of(image, source.policy if source.persistence_chosen else None)
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
            operation=Operation.new("clone", user, arguments=arguments, start=request.start).record(),
        )
        async with self._limits.lock(user):
            await self._limits.check_another(user)
            await self._limits.check_storage(user)
            if request.start:
                await self._limits.check_start(user, source.job.gpus)
            return await self._registry.create(clone, EventEntry(user, "clone", f"of {source.name}"))

    async def diff(
        self, user: str, name: str, reference: str | None, until: str | None = None, *, content: bool = False
    ) -> DiffReport:
        """Compare the present state, or the snapshot `until`, with a snapshot or the profile; `content` reads files."""
        session = await self._resolve(user, name, Permission.INSPECT)
        number = None if reference is None else (await self._find(session, reference)).number
        end = None if until is None else await self._find(session, until)
        profile, version, digest = session.image.values() if end is None else (end.profile, end.version, end.digest)
        base = f"profile {profile}@{version}" if number is None else f"snapshot {number}"
        image = await self._required(session, profile, version, digest)
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

    async def restart(self, user: str, name: str) -> SessionView:
        """Stop a session that has a job, and start it again, in the same job if possible; this ends root mode."""
        plan = await self.plan_restart(user, name)
        if not has_next_job(plan.session):
            raise ConflictError(f"{name} is {plan.session.state.value}", hint=f"`berth start {name}` starts it")
        return await self._begin(plan)

    async def plan_restart(self, user: str, name: str) -> PlannedChange:
        """Check everything that a start checks, so that no session is stopped that could not be started again."""
        session = await self._resolve(user, name, permission_for("restart"))
        image = await self._required(session, *session.image.values())
        gpus = self._submitter.check(image.profile, session.options)
        await self._limits.check_storage(user)
        await self._limits.check_start(user, gpus, instead_of=name)
        same = await self._has_same_resources(session, image)
        return self._plan(session, Operation.new("restart", user, start=True), "", image, same=same)

    async def root(self, user: str, name: str) -> SessionView:
        """Start the session in root mode. A running session is stopped first."""
        session = await self._resolve(user, name, permission_for("root"))
        if session.root and has_next_job(session):
            return self._pending.view(session)
        return await self._begin(await self.plan_root(user, name))

    async def plan_root(self, user: str, name: str) -> PlannedChange:
        """Check everything that `root` checks for a session in normal mode."""
        session = await self._resolve(user, name, permission_for("root"))
        check_free(session)
        image = await self._required(session, *session.image.values())
        self._submitter.check(image.profile, session.options)
        same = await self._has_same_resources(session, image)
        return self._plan(session, Operation.new("root", user, start=True), "", image, same=same)

    async def commit_root(self, user: str, name: str) -> SessionView:
        """Keep the changes that were made in root mode. The snapshot from its start remains."""
        session = await self._resolve(user, name, permission_for("commit-root"))
        if not (session.root and session.state is SessionState.READY):
            raise ConflictError(
                f"{name} is not ready in root mode", hint=f"`berth exec --root {name} -- COMMAND` does it"
            )
        before = session.last_operation.snapshot if session.last_operation is not None else None
        operation = Operation.new("commit-root", user, arguments={"before": before})
        return await self._begin(self._plan(session, operation, ""))

    def _plan(
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
        decide = _begun(operation, EventEntry(operation.actor, operation.verb, detail), same=same)
        keeps_job = same and operation.kind.needs_stopped and can_be_held(session, clock.now())
        return PlannedChange(session, decide, job, keeps_job)

    async def _begin(self, plan: PlannedChange) -> SessionView:
        session = await self._registry.update(plan.session.id, plan.decide)
        return await self._pending.start_operation(session)

    async def _resolve(self, user: str, name: str, permission: Permission) -> Session:
        return await self._access.resolve(user, name, permission)

    async def _list(self, session: Session) -> list[SnapshotView]:
        return (await with_user_errors(session.name, self._launcher.snapshots(session.owner, session.id)))[0]

    async def _find(self, session: Session, reference: str) -> SnapshotView:
        for snapshot in await self._list(session):
            if reference in {str(snapshot.number), snapshot.label}:
                return snapshot
        raise NotFoundError(
            f"{session.name} has no snapshot {reference}", hint=f"`berth snapshots {session.name}` lists them"
        )

    async def _has_same_resources(self, session: Session, image: Image) -> bool:
        """Whether a job with that image would request what the session's job did."""
        if session.options != session.job.options:
            return False
        if (image.name, image.version, image.digest) == tuple(session.image.values()):
            return True
        try:
            present = await self._required(session, *session.image.values())
        except BerthError:
            return False
        options = self._submitter.options
        return options(present.profile, session.options) == options(image.profile, session.options)

    async def _required(self, session: Session, profile: str, version: str, digest: str) -> Image:
        return await with_user_errors(session.name, self._images.required(session.owner, profile, version, digest))


def _begun(operation: Operation, entry: EventEntry, *, same: bool = False) -> Transition:
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
