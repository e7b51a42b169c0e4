"""Remove the data of deleted sessions: set aside at once, removed for good after the grace time."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.reconcile.retry import Backoff
from broker.controller.registry.registry import EventEntry
from broker.errors import BerthError
from broker.failpoints import failpoint
from broker.schema.sessions import SessionState
from broker.service.lasting_states import LastingStates
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.wakeup import ChangeNotifier

log = logging.getLogger(__name__)

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 3600.0
"""Seconds before the next attempt to remove data: the first pause, since a job that has ended may have it open for a
moment, then doubling up to the last.
"""


class DeletionRunner:
    """Removes the data of deleted sessions, one task for each session."""

    def __init__(self, *, registry: AsyncRegistry, launcher: LauncherClient, changes: ChangeNotifier) -> None:
        self._registry = registry
        self._launcher = launcher
        self._changes = changes
        self._running = SingleFlight[str, None](self._note_end)
        self._lasting = LastingStates(log)
        self._backoff = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S)

    @property
    def under_way(self) -> bool:
        """Whether data is being removed right now."""
        return len(self._running) > 0

    async def resume(self, sessions: Iterable[Session]) -> None:
        """Start the removal for sessions that are being deleted, and for all whose grace time is over."""
        going = [session for session in sessions if session.state is SessionState.DELETING]
        over = await self._registry.kept_deleted(over_at=clock.now())
        for session in [*going, *over]:
            if self._backoff.is_due(session.id):
                self._running.join(session.id, partial(self._remove, session))

    async def close(self) -> None:
        """Cancel the removals; the next controller repeats them."""
        await self._running.close()

    def _note_end(self, session_id: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._backoff.record_failure(session_id)
            log.error("removal failed session=%s", session_id, exc_info=error)
        self._changes.notify(session_id)

    async def _remove(self, session: Session) -> None:
        """Set the data aside, or remove it if there is no grace time or it is over.

        Nothing is done if the session has changed since it was read: an earlier attempt may have ended meanwhile.
        """
        current = await self._registry.require(session.id)
        if (current.state, current.kept_until) != (session.state, session.kept_until):
            return
        kept = session.state is SessionState.DELETING and session.kept_until is not None
        try:
            await self._launcher.trash(session.owner, session.id)
            failpoint("delete.set-aside")
            if not kept:
                await self._launcher.purge(session.owner, session.id)
        except BerthError as error:
            done = "set aside" if kept else "removed"
            text = f"data not {done} yet {session.log_name} error={error.message}"
            self._lasting.report(session.id, logging.WARNING, text)
            self._backoff.record_failure(session.id)
            reason = f"its data could not be {done} yet; Berth tries again: {error.message}"
            await self._registry.update(session.id, lambda _: ({"reason": reason}, None))
            return
        failpoint("delete.removed")
        self._backoff.forget(session.id)
        self._lasting.end(session.id)
        await self._registry.update(session.id, _record_removal(session))


def _record_removal(observed: Session) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if current.state is SessionState.DELETING:
            return {"state": SessionState.DELETED, "reason": ""}, EventEntry("berth", "deleted")
        is_over = observed.state is SessionState.DELETED and current.kept_until == observed.kept_until
        if current.state is SessionState.DELETED and is_over:
            return {"kept_until": None, "reason": ""}, EventEntry("berth", "purged")
        return None

    return decide
