"""Rename a session without a job: its certificates, and the files of a job, have its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller.registry.manifest import CHANGING
from broker.controller.registry.operation import Operation
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.preconditions import check_free
from broker.errors import ConflictError
from broker.schema.operations import permission_for
from broker.schema.sessions import STARTABLE, SessionState

if TYPE_CHECKING:
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.pending import PendingOperations
    from broker.schema.sessions import SessionView


class RenameService:
    """Requests to rename a session. Each call asks `access` first."""

    def __init__(self, *, access: SessionAccess, registry: AsyncRegistry, pending: PendingOperations) -> None:
        self._access = access
        self._registry = registry
        self._pending = pending

    async def rename(self, user: str, name: str, new: str) -> SessionView:
        """Give the session the name `new`, at once, and then to its data. Its files and snapshots stay.

        ConflictError, with nothing changed, if the name is taken, or if the session has a job or another operation.
        """
        session = await self._access.resolve(user, name, permission_for("rename"))
        if new == name:
            raise ConflictError(f"{name} has this name already", hint="give it another name")
        try:
            session = await self._registry.update(session.id, _begin_rename(user, name, new))
        except ConflictError as error:
            if error.hint:
                raise
            raise ConflictError(
                f"you have another session named {new}", hint="choose another name; `berth list` shows those in use"
            ) from error
        return await self._pending.start_operation(session)


def _begin_rename(user: str, name: str, new: str) -> Transition:
    def decide(current: Session) -> RowChange | None:
        check_free(current)
        if current.state not in STARTABLE:
            raise ConflictError(
                f"{name} is {current.state.value}, and only a stopped session can be renamed",
                hint=f"`berth stop {name}` first; it keeps the files",
            )
        operation = Operation.create("rename", user, arguments={"was": name}, state=current.state, why=current.reason)
        values = {"state": SessionState.CHANGING, "reason": CHANGING, "name": new, "operation": operation.record()}
        return values, EventEntry(user, "rename", f"from {name}")

    return decide
