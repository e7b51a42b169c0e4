"""Deleted sessions for their owners: list them, restore them, and free data that nothing refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError, to_user_error
from broker.controller.registry.manifest import CHANGING
from broker.controller.registry.operation import Operation
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions import access
from broker.errors import ConflictError
from broker.schema.operations import permission_for
from broker.schema.sessions import SessionState, SessionView
from broker.schema.volumes import GcReport

if TYPE_CHECKING:
    from broker.controller.reconcile.maintenance import Maintenance
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.limits import Limits
    from broker.controller.sessions.pending import PendingOperations


class DeletedSessions:
    """Requests for deleted sessions."""

    def __init__(
        self, *, registry: AsyncRegistry, maintenance: Maintenance, pending: PendingOperations, limits: Limits
    ) -> None:
        self._registry = registry
        self._maintenance = maintenance
        self._pending = pending
        self._limits = limits

    async def all(self, user: str) -> list[SessionView]:
        """Return the user's sessions that can be restored, in the order of their deletion."""
        found = await self._registry.kept_deleted(user)
        return [self._pending.view(session) for session in found if _can_be_restored(session)]

    async def restore(self, user: str, name: str, new_name: str | None) -> SessionView:
        """Restore the last deleted session of that name as a stopped one, under its name or `new_name`.

        ConflictError if the name is taken.
        """
        deleted = [session for session in await self._find_restorable(user) if session.name == name]
        session = access.require_deleted(user, name, deleted[-1] if deleted else None, permission_for("restore"))
        final_name = new_name or name
        try:
            async with self._limits.lock(user):
                await self._limits.check_another(user)
                session = await self._registry.update(session.id, _restore(user, final_name))
        except ConflictError as error:
            if error.hint:
                raise
            raise ConflictError(
                f"you have another session named {final_name}",
                hint=f"`berth restore {name} --as NEW` gives it another name",
            ) from error
        return await self._pending.start_operation(session)

    async def gc(self, user: str, *, dry_run: bool) -> GcReport:
        """Remove the data that no session of the user needs. With `dry_run`, only report it."""
        try:
            result = await self._maintenance.run_gc(user, dry_run=dry_run)
        except LauncherError as error:
            raise to_user_error(error, "your sessions") from error
        rows = await self._registry.by_ids(result.sessions)
        names = sorted(row.name for row in rows if row.owner == user)
        return GcReport(layers=result.layers, bytes=result.bytes, sessions=names, dry_run=dry_run)

    async def _find_restorable(self, user: str) -> list[Session]:
        found = await self._registry.kept_deleted(user)
        return [session for session in found if _can_be_restored(session)]


def _can_be_restored(session: Session) -> bool:
    return session.state is SessionState.DELETED and session.kept_until is not None and session.kept_until > clock.now()


def _restore(user: str, name: str) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if not _can_be_restored(current):
            raise ConflictError(
                f"{current.name} is being restored, or its grace time is over", hint="`berth list` shows your sessions"
            )
        operation = Operation.create("restore", user, arguments={"was": current.name})
        values = {"state": SessionState.CHANGING, "reason": CHANGING, "name": name, "operation": operation.record()}
        values["grants"] = []  # its deletion has ended them
        return values, EventEntry(user, "restore", "" if name == current.name else f"as {name}")

    return decide
