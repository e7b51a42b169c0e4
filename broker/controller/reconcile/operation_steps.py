"""The steps of each volume operation: launcher calls in order, each of which may be repeated.

`sessions.snapshots` decides whether an operation is allowed. `operation_runner` repeats it and writes to the registry.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.upgrading import columns_after_return, own_changes_message
from broker.controller.registry.manifest import ImageTarget, Manifest
from broker.failpoints import failpoint
from broker.launcher.argument_bases import ImageArguments
from broker.launcher.arguments import (
    CloneArguments,
    CommitRootArguments,
    CopyArguments,
    PromoteArguments,
    RollbackArguments,
    SnapshotArguments,
    SwitchArguments,
)
from broker.launcher.sharing_arguments import ReceiveArguments
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.launcher_client.volumes import SnapshotResult
    from broker.controller.reconcile.manifests import ManifestWriter
    from broker.controller.reconcile.own_changes import OwnChangesFinder
    from broker.controller.registry.models import Session
    from broker.controller.registry.operation import Operation

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OperationResult:
    """The result of an operation: changed columns of its session, and a message."""

    values: dict[str, Any]
    message: str
    undo: str = ""
    snapshot: int | None = None


class OperationExecutor:
    """Executes operations, each as its session's row records it. LauncherError if one fails."""

    def __init__(
        self,
        launcher: LauncherClient,
        manifests: ManifestWriter,
        *,
        own_changes: OwnChangesFinder,
        note: Callable[[Session, Operation, dict[str, Any]], Awaitable[Operation]],
        store_volumes: Callable[[str, dict[str, Any]], Awaitable[None]],
    ) -> None:
        """`note` adds arguments to the recorded operation, `store_volumes` records the volumes of another session."""
        self._launcher = launcher
        self._manifests = manifests
        self._own_changes = own_changes
        self._note = note
        self._store_volumes = store_volumes
        self.steps: dict[str, Callable[[Session, Operation], Awaitable[OperationResult]]] = {
            "snapshot": self._snapshot,
            "rollback": self._rollback,
            "switch": self._switch,
            "upgrade": self._upgrade,
            "clone": self._clone,
            "promote": self._promote,
            "restart": self._restart,
            "root": self._root,
            "commit-root": self._commit_root,
            "restore": self._restore,
            "rename": self._rename,
        }
        """One function for each key of OPERATIONS."""

    async def do(self, session: Session, operation: Operation) -> OperationResult:
        """Execute the operation, or undo it if it is being reversed."""
        step = self._reverse if operation.reversing else self.steps[operation.verb]
        return await step(session, operation)

    async def undo(self, session: Session, operation: Operation) -> None:
        """Remove what a failed operation has recorded or copied."""
        if operation.kind.in_manifest:
            await self._manifests.write_result(session.id, operation.id, {})
        elif operation.kind.rewrites_manifest:
            await self._manifests.write_result(session.id, operation.id, former_name(operation))
        elif operation.kind.has_source:
            await self._launcher.purge(session.owner, session.id)

    async def _snapshot(self, session: Session, operation: Operation) -> OperationResult:
        what: dict[str, Any] = {key: operation.arguments[key] for key in ("label", "reason", "automatic")}
        if session.state is SessionState.CHANGING:
            taken = await self._launcher.snapshot(
                session.owner, SnapshotArguments(session=session.id, operation=operation.id, **session.image, **what)
            )
        else:
            assert session.job.job_id is not None
            taken = await self._launcher.copy(
                session.owner,
                CopyArguments(
                    session=session.id, operation=operation.id, job_id=session.job.job_id, **session.image, **what
                ),
            )
        number = taken.snapshot.number
        return OperationResult(
            {"volumes": taken.volumes}, f"snapshot {number} is {taken.snapshot.consistency}", snapshot=number
        )

    async def _rollback(self, session: Session, operation: Operation) -> OperationResult:
        to = ImageTarget.model_validate(operation.arguments["to"])
        number = int(operation.arguments["snapshot"])
        await self._announce(session, operation)
        taken = await self._launcher.rollback(
            session.owner,
            RollbackArguments(session=session.id, operation=operation.id, snapshot=number, **session.image),
        )
        result = _with_undo(session, taken, f"rolled {session.name} back to snapshot {number}", to)
        result.values.update(columns_after_return(session, to, f"you went back to snapshot {number}", clock.now()))
        return await self._write_manifest(session, operation, result)

    async def _switch(self, session: Session, operation: Operation) -> OperationResult:
        to = ImageTarget.model_validate(operation.arguments["to"])
        await self._announce(session, operation)
        fresh = bool(operation.arguments["fresh"])
        taken, system = await self._launcher.switch(
            session.owner,
            SwitchArguments(
                session=session.id, operation=operation.id, to=ImageArguments(**to.image), fresh=fresh, **session.image
            ),
        )
        how = "a fresh system" if system == "fresh" else "the system that it had there"
        message = f"switched {session.name} to {to.profile}@{to.version}, with its home and {how}"
        return await self._write_manifest(session, operation, _with_undo(session, taken, message, to))

    async def _upgrade(self, session: Session, operation: Operation) -> OperationResult:
        """Switch to another version of the profile with an empty system, which the session's own must not miss."""
        to = ImageTarget.model_validate(operation.arguments["to"])
        if not operation.arguments["fresh"]:
            own = await self._own_changes.of(session)
            if own:
                await self._note(session, operation, {"packages": own.packages, "files": own.files})
                raise LauncherError("conflict", own_changes_message(session, to, own))
        failpoint("upgrade.checked")
        await self._announce(session, operation)
        taken, _ = await self._launcher.switch(
            session.owner,
            SwitchArguments(
                session=session.id, operation=operation.id, to=ImageArguments(**to.image), fresh=True, **session.image
            ),
        )
        message = f"{session.name} takes {to.profile}@{to.version}; it had {session.profile}@{session.version}"
        return await self._write_manifest(session, operation, _with_undo(session, taken, message, to))

    async def _clone(self, session: Session, operation: Operation) -> OperationResult:
        """If the source runs, take a snapshot of it first and record its number, so that a repetition reuses it."""
        arguments = operation.arguments
        if operation.receives:
            return await self._receive(session, operation)
        source, of = str(arguments["source"]), dict(arguments["of"])
        if arguments["snapshot"] is None and arguments["job_id"] is not None:
            what: dict[str, Any] = {"label": "", "reason": f"for the clone {session.name}", "automatic": True}
            taken = await self._launcher.copy(
                session.owner,
                CopyArguments(
                    session=source, operation=str(arguments["copy"]), job_id=int(arguments["job_id"]), **of, **what
                ),
            )
            failpoint("clone.copied")
            operation = await self._note(session, operation, {"snapshot": taken.snapshot.number})
        number = operation.arguments["snapshot"]
        to = ImageArguments(**session.image) if arguments["switched"] else None
        files = {"manifest.json": Manifest.of(session).text}
        clone = await self._launcher.clone(
            session.owner,
            CloneArguments(
                session=session.id, operation=operation.id, source=source, snapshot=number, to=to, files=files, **of
            ),
        )
        await self._store_volumes(source, clone.source)
        number = clone.taken.snapshot.number
        values = {"volumes": clone.taken.volumes, "host_key": clone.host_key}
        message = f"created {session.name} from snapshot {number} of {arguments['name']}"
        return OperationResult(values, message, f"berth delete {session.name}", number)

    async def _receive(self, session: Session, operation: Operation) -> OperationResult:
        """Make the session of a snapshot of another user, which was checked when the operation was requested."""
        arguments = operation.arguments
        number = int(arguments["snapshot"])
        received = await self._launcher.receive(
            session.owner,
            ReceiveArguments(
                session=session.id,
                operation=operation.id,
                owner=str(arguments["owner"]),
                source=str(arguments["source"]),
                snapshot=number,
                digest=session.digest,
                system=bool(arguments["system"]),
                driver=str(arguments["driver"]),
                most_bytes=int(arguments["most_bytes"]),
                files={"manifest.json": Manifest.of(session).text},
            ),
        )
        values = {"volumes": received.volumes, "host_key": received.host_key}
        message = f"created {session.name} from snapshot {number} of {arguments['name']}"
        return OperationResult(values, message, f"berth delete {session.name}")

    async def _promote(self, session: Session, operation: Operation) -> OperationResult:
        arguments = operation.arguments
        files = {"manifest.json": Manifest.of(session).text}
        promoted = await self._launcher.promote(
            session.owner,
            PromoteArguments(
                session=session.id,
                operation=operation.id,
                source=str(arguments["source"]),
                job=str(arguments["job"]),
                files=files,
            ),
        )
        values = {"volumes": promoted.volumes, "host_key": promoted.host_key}
        return OperationResult(
            values, f"created {session.name} from {arguments['name']}", f"berth delete {session.name}"
        )

    async def _restart(self, session: Session, operation: Operation) -> OperationResult:
        """Change nothing: the session starts again after the operation."""
        if not operation.start:
            raise LauncherError("conflict", f"{session.name} was stopped before it was started again")
        return OperationResult({}, f"restarted {session.name}")

    async def _root(self, session: Session, operation: Operation) -> OperationResult:
        """Take a snapshot; the changes of root mode become a layer on top of it."""
        if not operation.start:
            raise LauncherError("conflict", f"{session.name} was stopped before root mode began")
        what: dict[str, Any] = {"label": "", "reason": "before exec --root", "automatic": True}
        taken = await self._launcher.snapshot(
            session.owner, SnapshotArguments(session=session.id, operation=operation.id, **session.image, **what)
        )
        return _with_undo(session, taken, f"{session.name} starts in root mode")

    async def _commit_root(self, session: Session, operation: Operation) -> OperationResult:
        assert session.job.job_id is not None
        volumes = await self._launcher.commit_root(
            session.owner, CommitRootArguments(session=session.id, operation=operation.id, job_id=session.job.job_id)
        )
        before = operation.arguments["before"]
        undo = f"berth rollback {session.name} {before}" if before is not None else ""
        return OperationResult({"volumes": volumes}, f"kept the changes that root made in {session.name}", undo, before)

    async def _restore(self, session: Session, operation: Operation) -> OperationResult:
        restored = await self._launcher.restore(session.owner, session.id)
        values = {"volumes": restored.volumes, "kept_until": None} | replaced_host_key(session, restored.host_key)
        await self._manifests.write_result(session.id, operation.id, values)  # its name may have changed, too
        return OperationResult(values, f"restored {session.name}", f"berth delete {session.name}")

    async def _rename(self, session: Session, operation: Operation) -> OperationResult:
        """Write the manifest with the new name, and replace the host key: its certificates have the former name."""
        was = operation.arguments["was"]
        await self._manifests.write(session.id)
        failpoint("rename.written")
        values: dict[str, Any] = {}
        if session.host_key:
            values = replaced_host_key(session, await self._launcher.renew_host_key(session.owner, session.id))
        message = f"renamed {was} to {session.name}"
        return await self._write_manifest(
            session, operation, OperationResult(values, message, f"berth rename {session.name} {was}")
        )

    async def _announce(self, session: Session, operation: Operation) -> None:
        """Write the operation to the manifest: a registry that is rebuilt now resumes it."""
        await self._manifests.write(session.id)
        failpoint(f"{operation.verb}.announced")

    async def _reverse(self, session: Session, operation: Operation) -> OperationResult:
        """Restore the state before the operation, from the snapshot that a rollback or a switch has taken."""
        if not operation.kind.in_manifest:
            return OperationResult({}, "")
        assert operation.snapshot is not None, "the operation was done"
        await self._manifests.write(session.id)
        failpoint("reversal.announced")
        number = operation.snapshot
        taken = await self._launcher.rollback(
            session.owner,
            RollbackArguments(session=session.id, operation=operation.request_id, snapshot=number, **session.image),
        )
        return await self._write_manifest(
            session, operation, OperationResult({"volumes": taken.volumes} | operation.former, "")
        )

    async def _write_manifest(self, session: Session, operation: Operation, result: OperationResult) -> OperationResult:
        """Write the manifest of the session after the operation."""
        try:
            await self._manifests.write_result(session.id, operation.id, result.values)
        except LauncherError as error:
            if error.unclear:
                raise
            # The volumes have changed, so this is no failure. A registry rebuilt before the next start repeats the
            # operation, and the launcher answers that it is complete.
            log.warning("manifest is behind its volumes %s error=%s", session.log_name, error.message)
        return result


def former_name(operation: Operation) -> dict[str, Any]:
    """Return the name of the session before the operation, as columns of its row; none if that stays."""
    return {"name": operation.arguments["was"]} if "was" in operation.arguments else {}


def replaced_host_key(session: Session, line: str) -> dict[str, Any]:
    """Return the columns of a session with a new host key; the former one is revoked if it may have a certificate."""
    former, job = session.former_host_keys, session.job
    replaced_at = max((entry["replaced_at"] for entry in former), default=0.0)
    if session.host_key and session.submissions and job.asked_at >= replaced_at and line != session.host_key:
        former = [*former, {"key": session.host_key, "replaced_at": clock.now()}]
    return {"host_key": line, "former_host_keys": former}


def _with_undo(session: Session, taken: SnapshotResult, message: str, to: ImageTarget | None = None) -> OperationResult:
    """Return the result of an operation that took a snapshot first, which undoes it."""
    before = taken.snapshot.number
    values = {"volumes": taken.volumes} | (to.columns() | {"offer": None} if to is not None else {})
    return OperationResult(values, message, f"berth rollback {session.name} {before}", before)
