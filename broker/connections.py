"""Who is, and was, connected to sessions: what gateways and `berth connect` tell of it, kept for as long as the site
wants it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from broker import access
from broker.access import Verb
from broker.errors import RefusedError
from broker.models import Connection

if TYPE_CHECKING:
    from broker.models import Session
    from broker.registry import Registry
    from broker.schema import ConnectionRecord, ConnectionReport, ConnectionView

UNHEARD = 180.0
"""Seconds after which a connection that its gateway has not told of counts as lost: three times audit.STANDING."""
KEEPS_ALIVE = 10 * 1024
"""Bytes that a connection carries between two reports, a minute apart, although nobody works with it: what clients and
IDEs send to keep it. Typing into an editor over ssh takes several times as much."""
SWEEP = 3600.0
"""Seconds between two removals of what is too old."""
LOST = "lost"
"""How a connection ended of which nobody says how: its gateway or its job is gone."""

log = logging.getLogger(__name__)


class Connections:
    """Every question asks `access` first."""

    def __init__(self, registry: Registry, *, days: float) -> None:
        """`days`: how long a record is kept after the last that was heard of its connection."""
        self._registry = registry
        self._kept = days * 86400
        self._swept = -math.inf

    async def note(self, report: ConnectionReport, caller: str | None) -> int:
        """Keep what a gateway, or with `caller` somebody of their own connections, tells; how many of these it knows
        sessions for. RefusedError, keeping nothing, if `caller` speaks of others.
        """
        return await asyncio.to_thread(self._note, report, caller)

    async def standing(self, user: str, name: str) -> list[ConnectionView]:
        """Those who are connected to the session now, the first first."""
        session = await asyncio.to_thread(access.resolve, self._registry, user, user, name, Verb.SEE)
        rows = await asyncio.to_thread(self._registry.connections_of, session.owner, session.id, standing=True)
        now = time.time()
        return [row.view() for row in rows if _stands(row, session, now)]

    async def all(self, user: str, name: str | None = None) -> list[ConnectionView]:
        """All that are remembered of one or all of the user's sessions, the newest last."""
        return await asyncio.to_thread(self._all, user, name)

    def _note(self, report: ConnectionReport, caller: str | None) -> int:
        sessions = {each.id: each for each in self._registry.by_ids({r.session_id for r in report.connections})}
        if caller is not None:
            _check_own(report, sessions, caller)
        now = time.time()
        gateway = report.gateway if caller is None else ""
        known = [record for record in report.connections if record.session_id in sessions]
        rows = [_row(record, sessions[record.session_id], gateway, now) for record in known]
        carried = self._registry.note_connections(rows)
        active = {row.session_id for row in rows if _is_active(carried[row.id])}
        self._registry.note_use({row.session_id for row in rows}, active, now)
        if now - self._swept > SWEEP:
            self._swept = now
            log.info("%d old records of connections removed", self._registry.forget_connections(now - self._kept))
        return len(known)

    def _all(self, user: str, name: str | None) -> list[ConnectionView]:
        one = None if name is None else access.resolve(self._registry, user, user, name, Verb.SEE)
        rows = self._registry.connections_of(user, None if one is None else one.id)
        sessions = {each.id: each for each in self._registry.by_ids({row.session_id for row in rows})}
        now = time.time()
        return [_seen(row, sessions.get(row.session_id), now) for row in rows if row.seen_at > now - self._kept]


def _is_active(carried: int | None) -> bool:
    """Whether somebody works with a connection: it is new, or carries more than what keeps it."""
    return carried is None or carried >= KEEPS_ALIVE


def _check_own(report: ConnectionReport, sessions: dict[str, Session], caller: str) -> None:
    for record in report.connections:
        session = sessions.get(record.session_id)
        if record.user != caller or (session is not None and not access.allowed(caller, session, Verb.CONNECT)):
            raise RefusedError(f"{caller} can tell of their own connections only")


def _row(record: ConnectionRecord, session: Session, gateway: str, now: float) -> Connection:
    told = record.model_dump()
    return Connection(**told, session=session.name, owner=session.owner, gateway=gateway, seen_at=now)


def _stands(row: Connection, session: Session | None, now: float) -> bool:
    """Nobody is connected to a job that is gone, nor by a gateway that says no more. `berth connect` says nothing
    between the beginning and the end.
    """
    if row.ended_at is not None or session is None or session.endpoint is None:
        return False
    return row.generation == session.generation and (not row.gateway or now - row.seen_at < UNHEARD)


def _seen(row: Connection, session: Session | None, now: float) -> ConnectionView:
    view = row.view()
    if row.ended_at is not None or _stands(row, session, now):
        return view
    return view.model_copy(update={"ended_at": row.seen_at, "end": LOST})
