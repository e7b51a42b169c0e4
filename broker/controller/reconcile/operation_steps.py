"""The steps of each volume operation: launcher verbs in order, each of which may be repeated.

Nothing here decides whether an operation may be done, tries again, or writes to the registry: that is `snapshots`'s
and `operations`'s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.registry.manifest import Manifest, Target
from broker.controller.registry.models import Session
from broker.failpoints import failpoint
from broker.launcher.arguments import (
    CloneArguments,
    CommitRootArguments,
    CopyArguments,
    ImageArguments,
    PromoteArguments,
    RollbackArguments,
    SnapshotArguments,
    SwitchArguments,
)
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.launcher_client.volumes import SnapshotResult
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
        *,
        note: Callable[[Session, Operation, dict[str, Any]], Awaitable[Operation]],
        tell: Callable[[str, dict[str, Any]], Awaitable[None]],
    ) -> None:
        """`note` adds to the arguments that are recorded of an operation, `tell` says of another session, by its id,
        what its volumes are now.
        """
        self._launcher = launcher
        self._note = note
        self._tell = tell
        self.steps: dict[str, Callable[[Session, Operation], Awaitable[OperationResult]]] = {
            "snapshot": self._snapshot,
            "rollback": self._rollback,
            "switch": self._switch,
            "clone": self._clone,
            "promote": self._promote,
            "root": self._root,
            "commit-root": self._commit_root,
            "restore": self._restore,
        }
        """For each key of OPERATIONS."""

    async def do(self, session: Session, intent: Operation) -> OperationResult:
        return await self.steps[intent.verb](session, intent)

    async def take_back(self, session: Session, intent: Operation) -> None:
        """Leave nothing that tells of an operation that could not be done."""
        if intent.kind.in_manifest:
            await self._write_manifest(session)
        elif intent.kind.has_source:
            await self._launcher.purge(session.owner, session.id)

    async def _snapshot(self, session: Session, intent: Operation) -> OperationResult:
        what: dict[str, Any] = {key: intent.arguments[key] for key in ("label", "reason", "automatic")}
        if session.state is SessionState.CHANGING:
            taken = await self._launcher.snapshot(
                session.owner, SnapshotArguments(session=session.id, operation=intent.id, **session.image, **what)
            )
        else:
            assert session.job_id is not None
            taken = await self._launcher.copy(
                session.owner,
                CopyArguments(session=session.id, operation=intent.id, job_id=session.job_id, **session.image, **what),
            )
        number = taken.snapshot.number
        return OperationResult(
            {"volumes": taken.volumes}, f"snapshot {number} is {taken.snapshot.consistency}", snapshot=number
        )

    async def _rollback(self, session: Session, intent: Operation) -> OperationResult:
        to = Target.model_validate(intent.arguments["to"])
        number = int(intent.arguments["snapshot"])
        await self._announce(session, intent)
        taken = await self._launcher.rollback(
            session.owner, RollbackArguments(session=session.id, operation=intent.id, snapshot=number, **session.image)
        )
        deed = _with_undo(session, taken, f"{session.name} is as it was in snapshot {number}", to)
        return await self._settled(session, deed)

    async def _switch(self, session: Session, intent: Operation) -> OperationResult:
        to = Target.model_validate(intent.arguments["to"])
        await self._announce(session, intent)
        fresh = bool(intent.arguments["fresh"])
        taken, system = await self._launcher.switch(
            session.owner,
            SwitchArguments(
                session=session.id, operation=intent.id, to=ImageArguments(**to.image), fresh=fresh, **session.image
            ),
        )
        how = "a fresh system" if system == "fresh" else "the system that it had there"
        told = f"{session.name} is on {to.profile}@{to.version} with its home and {how}"
        return await self._settled(session, _with_undo(session, taken, told, to))

    async def _clone(self, session: Session, intent: Operation) -> OperationResult:
        """First a copy of the source's tops if it runs, whose number is noted, so that it is made once."""
        told = intent.arguments
        source, of = str(told["source"]), dict(told["of"])
        if told["snapshot"] is None and told["job_id"] is not None:
            what: dict[str, Any] = {"label": "", "reason": f"for the clone {session.name}", "automatic": True}
            taken = await self._launcher.copy(
                session.owner,
                CopyArguments(session=source, operation=str(told["copy"]), job_id=int(told["job_id"]), **of, **what),
            )
            failpoint("clone.copied")
            intent = await self._note(session, intent, {"snapshot": taken.snapshot.number})
        number = intent.arguments["snapshot"]
        to = ImageArguments(**session.image) if told["switched"] else None
        files = {"manifest.json": Manifest.of(session).text}
        made = await self._launcher.clone(
            session.owner,
            CloneArguments(
                session=session.id, operation=intent.id, source=source, snapshot=number, to=to, files=files, **of
            ),
        )
        await self._tell(source, made.source)
        number = made.taken.snapshot.number
        values = {"volumes": made.taken.volumes, "host_key": made.host_key}
        message = f"{session.name} begins as {told['name']} in snapshot {number}"
        return OperationResult(values, message, f"berth delete {session.name}", number)

    async def _promote(self, session: Session, intent: Operation) -> OperationResult:
        told = intent.arguments
        files = {"manifest.json": Manifest.of(session).text}
        made = await self._launcher.promote(
            session.owner,
            PromoteArguments(
                session=session.id, operation=intent.id, source=str(told["source"]), job=str(told["job"]), files=files
            ),
        )
        values = {"volumes": made.volumes, "host_key": made.host_key}
        return OperationResult(
            values, f"{session.name} begins as {told['name']} left it", f"berth delete {session.name}"
        )

    async def _root(self, session: Session, intent: Operation) -> OperationResult:
        """A snapshot first: what root does becomes a layer over it."""
        if not intent.start:
            raise LauncherError("conflict", f"{session.name} was stopped before root mode began")
        what: dict[str, Any] = {"label": "", "reason": "before exec --root", "automatic": True}
        taken = await self._launcher.snapshot(
            session.owner, SnapshotArguments(session=session.id, operation=intent.id, **session.image, **what)
        )
        return _with_undo(session, taken, f"{session.name} starts in root mode")

    async def _commit_root(self, session: Session, intent: Operation) -> OperationResult:
        assert session.job_id is not None
        volumes = await self._launcher.commit_root(
            session.owner, CommitRootArguments(session=session.id, operation=intent.id, job_id=session.job_id)
        )
        before = intent.arguments["before"]
        undo = f"berth rollback {session.name} {before}" if before is not None else ""
        return OperationResult({"volumes": volumes}, f"what root changed in {session.name} is kept", undo, before)

    async def _restore(self, session: Session, intent: Operation) -> OperationResult:
        del intent
        made = await self._launcher.untrash(session.owner, session.id)
        values = {"volumes": made.volumes, "kept_until": None, "host_key": made.host_key}
        await self._write_manifest(Session(**session.model_dump() | values))  # its name may be another, too
        return OperationResult(values, f"{session.name} is back", f"berth delete {session.name}")

    async def _announce(self, session: Session, intent: Operation) -> None:
        """Have the manifest tell of what is about to be done: a registry that is lost now goes on with it."""
        await self._write_manifest(session, intent)
        failpoint(f"{intent.verb}.announced")

    async def _settled(self, session: Session, deed: OperationResult) -> OperationResult:
        """Have the manifest tell of the session as it is after the deed."""
        try:
            await self._write_manifest(Session(**session.model_dump() | deed.values))
        except LauncherError as error:
            if error.unclear:
                raise
            # The volumes are changed, so this is no failure; until the next start's manifest, a lost registry would
            # ask for the same operation again and be told that it is done.
            log.warning("the manifest of %s is behind its volumes: %s", session.id, error.message)
        return deed

    async def _write_manifest(self, session: Session, unfinished: Operation | None = None) -> None:
        files = {"manifest.json": Manifest.of(session, unfinished).text}
        await self._launcher.install(session.owner, session.id, files)


def _with_undo(session: Session, taken: SnapshotResult, message: str, to: Target | None = None) -> OperationResult:
    """What came of something that has kept a snapshot of what was before."""
    before = taken.snapshot.number
    values = {"volumes": taken.volumes} | (to.columns() if to is not None else {})
    return OperationResult(values, message, f"berth rollback {session.name} {before}", before)
