"""Stop sessions on request, or at the time that was set for it. Until that time a session may be made to continue."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.controller.registry.registry import EventEntry
from broker.schema.sessions import LIVE, SessionState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition

log = logging.getLogger(__name__)

NO_TIME = {"stop_at": None, "stays": False}
"""Columns of a session that is to be stopped at no time."""


class Stopping:
    """Stops sessions whose time has come."""

    def __init__(self, registry: AsyncRegistry) -> None:
        self._registry = registry

    async def see_to(self, sessions: Iterable[Session], now: float) -> list[Session]:
        """Stop those whose time has come; all of them as they are then."""
        return [
            await self._registry.update(session.id, _in_time(now)) if _is_due(session, now) else session
            for session in sessions
        ]


def stop(user: str, detail: str = "", *, because: str = "") -> Transition:
    """Ask for the session's end; one without a job is stopped already. `because`: what is told of it afterwards."""

    def decide(now: Session) -> RowChange | None:
        entry = EventEntry(user, "stop", detail)
        if now.state is SessionState.FAILED:
            return {"state": SessionState.STOPPED, **NO_TIME}, entry
        intent = now.pending
        if now.state in {SessionState.CHANGING, SessionState.STOPPING} and intent is not None and intent.start:
            return {"operation": intent.but(start=False).record(), **NO_TIME}, entry
        if now.state not in LIVE or now.state is SessionState.STOPPING:
            return None
        values = {"state": SessionState.STOPPING, "reason": "waiting for the job to end", "stop_reason": because}
        return values | NO_TIME, entry

    return decide


def _is_due(session: Session, now: float) -> bool:
    has_job = session.state in LIVE and session.state is not SessionState.STOPPING
    return has_job and session.stop_at is not None and session.stop_at <= now


def _in_time(at: float) -> Transition:
    because = "it was to be stopped then"
    return lambda now: stop("berth", because, because=because)(now) if _is_due(now, at) else None
