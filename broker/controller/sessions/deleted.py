"""Deleted sessions for their owners: list them, restore them, and free data that nothing refers to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

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
        self, *, registry: AsyncRegistry, upkeep: Maintenance, answering: PendingOperations, limits: Limits
    ) -> None:
        self._registry = registry
        self._upkeep = upkeep
        self._answering = answering
        self._limits = limits

    async def all(self, user: str) -> list[SessionView]:
        """The user's sessions that can be brought back, the one deleted last at the end."""
        found = await self._registry.kept_deleted(user)
        return [self._answering.view(session) for session in found if _can_come_back(session)]

    async def restore(self, user: str, name: str, new_name: str | None) -> SessionView:
        """Bring back the one of that name that was deleted last, stopped, under its name or another.

        ConflictError if that name is taken.
        """
        deleted = [each for each in await self._kept(user) if each.name == name]
        session = access.allowed_deleted(user, name, deleted[-1] if deleted else None, permission_for("restore"))
        wanted = new_name or name
        try:
            async with self._limits.turn(user):
                await self._limits.check_another(user)
                session = await self._registry.update(session.id, _restore(user, wanted))
        except ConflictError as error:
            if error.hint:
                raise
            raise ConflictError(
                f"you have another session named {wanted}",
                hint=f"`berth restore {name} --as NEW` gives it another name",
            ) from error
        return await self._answering.wait_for_operation(session)

    async def gc(self, user: str, *, dry_run: bool) -> GcReport:
        """Remove what nothing of the user's names, or say what would be removed."""
        try:
            found = await self._upkeep.collected(user, dry_run=dry_run)
        except LauncherError as error:
            raise to_user_error(error, "your sessions") from error
        rows = await self._registry.by_ids(found.sessions)
        names = sorted(row.name for row in rows if row.owner == user)
        return GcReport(layers=found.layers, bytes=found.bytes, sessions=names, dry_run=dry_run)

    async def _kept(self, user: str) -> list[Session]:
        found = await self._registry.kept_deleted(user)
        return [session for session in found if _can_come_back(session)]


def _can_come_back(session: Session) -> bool:
    return session.state is SessionState.DELETED and session.kept_until is not None and session.kept_until > time.time()


def _restore(user: str, name: str) -> Transition:
    def decide(now: Session) -> RowChange | None:
        if not _can_come_back(now):
            raise ConflictError(f"{now.name} is being restored, or its grace is over", hint="`berth list` shows yours")
        intent = Operation.new("restore", user, arguments={"was": now.name})
        values = {"state": SessionState.CHANGING, "reason": CHANGING, "name": name, "operation": intent.record()}
        return values, EventEntry(user, "restore", "" if name == now.name else f"as {name}")

    return decide
