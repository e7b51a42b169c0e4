"""Stop sessions on request or at their stop time."""

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
"""Columns of a session without a stop time."""
STOPPING = "waiting for the job to end"
STOPPED_BY = "stopped by "
"""Before the name of the guest who has stopped a session: the reason that is shown."""
ENDED_BY_OPERATOR = "ended by operator "
"""Before the name and the message of the operator who has stopped a session."""


class ScheduledStopPolicy:
    """Stops sessions at their stop time."""

    def __init__(self, registry: AsyncRegistry) -> None:
        self._registry = registry

    async def enforce(self, sessions: Iterable[Session], now: float) -> list[Session]:
        """Stop the sessions that are due. Return all sessions, updated."""
        return [
            await self._registry.update(session.id, _in_time(now)) if _is_due(session, now) else session
            for session in sessions
        ]


def stop(user: str, detail: str = "", *, because: str = "", action: str = "stop") -> Transition:
    """Request the session's stop; one without a job stays stopped.

    `because`: the reason that is shown afterwards. `action`: the name of the event.
    """

    def decide(current: Session) -> RowChange | None:
        entry = EventEntry(user, action, detail)
        if current.state is SessionState.FAILED:
            return {"state": SessionState.STOPPED, **NO_TIME}, entry
        operation = current.pending
        if (
            current.state in {SessionState.CHANGING, SessionState.STOPPING}
            and operation is not None
            and operation.start
        ):
            return {"operation": operation.replace(start=False, in_job=False).record(), **NO_TIME}, entry
        if current.state not in LIVE or current.state is SessionState.STOPPING:
            return None
        values = {"state": SessionState.STOPPING, "reason": STOPPING, "stop_reason": because}
        return values | NO_TIME, entry

    return decide


def _is_due(session: Session, now: float) -> bool:
    has_job = session.state in LIVE and session.state is not SessionState.STOPPING
    return has_job and session.stop_at is not None and session.stop_at <= now


def _in_time(at: float) -> Transition:
    because = "stopped at the scheduled time"
    return lambda session: stop("berth", because, because=because)(session) if _is_due(session, at) else None
