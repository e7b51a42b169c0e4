"""Records of connections to sessions, as gateways and `berth connect` report them.

The site decides how long they are kept.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections import Counter
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.registry.connection_model import Connection
from broker.controller.sessions import access
from broker.errors import InvalidInputError, RefusedError
from broker.schema.connections import CONNECTION_TIMEOUT_S
from broker.schema.permissions import Permission

if TYPE_CHECKING:
    from broker.config.registry_settings import RegistrySettings
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.open_connections import OpenConnections
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.guests import GuestService
    from broker.schema.connections import ConnectionRecord, ConnectionReport, ConnectionView, GuestVisitView

KEEPALIVE_BYTES = 10 * 1024
"""Bytes that an idle connection carries between two reports, a minute apart: keep-alive messages of clients and IDEs.
Typing into an editor over ssh takes several times as much."""
MAX_OWN_REPORT = 50
"""Records in one report of a user, whose `berth connect` and `berth ssh` send one at a time."""
MAX_OWN_OPEN = 256
"""Open connections that users may report: each is a process of theirs on the login node."""
MAX_GUEST_RECORDS = 100
"""New connections between two sweeps that a guest may report themselves: they take room of the owner's records."""
MAX_OWN_RECORDS = 1000
"""Records that are kept of a user's own reports, the newest; the API shows as many at most."""
TRIM_AFTER = 500
"""New records of one owner after which the oldest are removed."""
SWEEP_INTERVAL_S = 3600.0
"""Time between two removals of old records."""
TERMINALS_TIMEOUT_S = 2.0
"""Seconds that an answer waits for the user's file system."""
TERMINALS = re.compile(r"(?P<run>[0-9]{1,9}\.[0-9]{1,9}) (?P<count>[0-9]{1,6})\n")
"""The content of run/terminals, which the job writes (broker/job/node/idle.sh)."""
LOST = "lost"
"""The end of a connection whose end was not reported: its gateway or its job has ended."""

log = logging.getLogger(__name__)


class Connections:
    """Records of connections. Each call asks `access` first."""

    def __init__(
        self,
        access: SessionAccess,
        registry: AsyncRegistry,
        launcher: LauncherClient,
        open_connections: OpenConnections,
        *,
        guests: GuestService,
        settings: RegistrySettings,
    ) -> None:
        self._access = access
        self._registry = registry
        self._launcher = launcher
        self._open = open_connections
        self._guests = guests
        self._blocking = registry.blocking
        self._kept = settings.connection_days * 86400
        self._records = settings.connection_records
        self._swept = -math.inf
        self._added: Counter[str] = Counter()
        """New records since the last trim, by owner of a session."""
        self._of_guests: Counter[tuple[str, str]] = Counter()
        """New records since the last sweep that guests have reported themselves, by guest and session."""

    async def note(self, report: ConnectionReport, caller: str | None) -> int:
        """Store a report of a gateway, or of the user `caller`; return how many of its sessions exist.

        RefusedError, and nothing is stored, if `caller` reports connections of other users.
        """
        noted = await asyncio.to_thread(self._note, report, caller)
        self._open.expire(clock.now())
        self._open.record(noted)
        return len(noted)

    async def open_connections(self, user: str, name: str) -> list[ConnectionView]:
        """Return the open connections to the session, oldest first, those of guests with their roles."""
        session = await self._access.resolve(user, name, Permission.WHO)
        rows = await self._registry.connections_of(session.owner, session.id, standing=True)
        now = clock.now()
        return [self._with_role(row, session.id) for row in rows if _stands(row, session, now)]

    def _with_role(self, row: Connection, session_id: str) -> ConnectionView:
        return row.view().model_copy(update={"role": self._guests.role_of(session_id, row.user)})

    async def guests(self, user: str, name: str) -> list[GuestVisitView]:
        """Return the visits of guests in browsers to the session's services, oldest first."""
        session = await self._access.resolve(user, name, Permission.WHO)
        now = clock.now()
        visits = await self._registry.guest_visits(session.id)
        return [each.guest_view() for each in visits if each.expires_at > now]

    async def terminals(self, user: str, name: str) -> int | None:
        """Return the number of terminals that logins have open in the session, as its job reported it last.

        None if the file that has it cannot be read in TERMINALS_TIMEOUT_S.
        """
        session = await self._access.resolve(user, name, Permission.WHO)
        if session.endpoint is None:
            return 0
        try:
            async with asyncio.timeout(TERMINALS_TIMEOUT_S):
                text = await self._launcher.terminals(session.owner, session.id)
        except (LauncherError, TimeoutError):
            return None
        report = TERMINALS.fullmatch(text)
        return int(report["count"]) if report is not None and report["run"] == session.generation else 0

    async def all(self, user: str, name: str | None = None) -> list[ConnectionView]:
        """Return all stored connections to one or all of the user's sessions, oldest first."""
        one = None if name is None else await self._access.resolve(user, name, Permission.WHO)
        rows = await self._registry.connections_of(user, None if one is None else one.id)
        sessions = {session.id: session for session in await self._registry.by_ids({row.session_id for row in rows})}
        now = clock.now()
        return [
            _connection_view(row, sessions.get(row.session_id), now) for row in rows if row.seen_at > now - self._kept
        ]

    def _note(self, report: ConnectionReport, caller: str | None) -> list[Connection]:
        sessions = {
            session.id: session for session in self._blocking.by_ids({r.session_id for r in report.connections})
        }
        if caller is not None:
            self._check_own(report, sessions, caller)
        now = clock.now()
        gateway = report.gateway if caller is None else ""
        rows = [
            _row(record, sessions[record.session_id], gateway, now)
            for record in report.connections
            if record.session_id in sessions
        ]
        if caller is not None:
            self._check_room(rows, caller, now)
        carried = self._blocking.note_connections(rows)
        if len(carried) < len({row.id for row in rows}):
            log.warning("connection records refused reason=foreign-id count=%d", len(rows) - len(carried))
        noted = [row for row in rows if row.id in carried]
        active = {row.session_id for row in noted if _is_active(carried[row.id])}
        self._blocking.note_use({row.session_id for row in noted}, active, now)
        self._trim([row for row in noted if carried[row.id] is None], own=caller is not None)
        if now - self._swept > SWEEP_INTERVAL_S:
            self._swept = now
            self._of_guests.clear()
            log.info("connection records removed count=%d", self._blocking.forget_connections(now - self._kept))
            for owner in self._blocking.owners_of_connections(min(self._records, MAX_OWN_RECORDS)):
                self._trim_owner(owner)
        return noted

    def _check_own(self, report: ConnectionReport, sessions: dict[str, Session], caller: str) -> None:
        """RefusedError unless a user's own report is about connections that they may have."""
        if len(report.connections) > MAX_OWN_REPORT:
            raise InvalidInputError(f"connections: a user's report has at most {MAX_OWN_REPORT}")
        for record in report.connections:
            session = sessions.get(record.session_id)
            is_own = session is None or access.is_allowed(caller, session, Permission.CONNECT)
            if record.user != caller or not (is_own or self._guests.is_admitted(record.session_id, caller)):
                raise RefusedError(f"{caller} can report only their own connections")

    def _check_room(self, rows: list[Connection], caller: str, now: float) -> None:
        """RefusedError if a user's own report is about other users' connections, or about too many."""
        known = {row.id: row for row in self._blocking.known_connections({row.id for row in rows})}
        if any(row.id in known and not known[row.id].is_same(row) for row in rows):
            raise RefusedError("another connection has this id")
        of_guest = Counter((caller, row.session_id) for row in rows if row.id not in known and row.owner != caller)
        self._of_guests.update(of_guest)
        if any(self._of_guests[each] > MAX_GUEST_RECORDS for each in of_guest):
            raise RefusedError("limit of recorded connections of a guest reached", hint="try again in an hour")
        new = {row.id for row in rows if row.id not in known and row.ended_at is None}
        if new and self._blocking.count_own_connections(caller, now - CONNECTION_TIMEOUT_S) + len(new) > MAX_OWN_OPEN:
            raise RefusedError(
                f"limit of recorded connections without the gateway reached ({MAX_OWN_OPEN})",
                hint="all your connections work, with or without a record",
            )

    def _trim(self, new: list[Connection], *, own: bool) -> None:
        self._added.update(row.owner for row in new)
        for owner in {row.owner for row in new}:
            if self._added[owner] >= TRIM_AFTER or (own and self._added[owner] >= MAX_OWN_REPORT):
                self._trim_owner(owner)

    def _trim_owner(self, owner: str) -> None:
        del self._added[owner]
        self._blocking.trim_connections(owner, MAX_OWN_RECORDS, own=True)
        self._blocking.trim_connections(owner, self._records, own=False)


def _is_active(carried: int | None) -> bool:
    """Whether a connection is in use: it is new, or carries more than keep-alive messages."""
    return carried is None or carried >= KEEPALIVE_BYTES


def _row(record: ConnectionRecord, session: Session, gateway: str, now: float) -> Connection:
    return Connection(**record.model_dump(), session=session.name, owner=session.owner, gateway=gateway, seen_at=now)


def _stands(row: Connection, session: Session | None, now: float) -> bool:
    """Whether a connection is open. It ends with its job, and after CONNECTION_TIMEOUT_S without a report."""
    if row.ended_at is not None or session is None or session.endpoint is None:
        return False
    return row.generation == session.generation and now - row.seen_at < CONNECTION_TIMEOUT_S


def _connection_view(row: Connection, session: Session | None, now: float) -> ConnectionView:
    view = row.view()
    if row.ended_at is not None or _stands(row, session, now):
        return view
    return view.model_copy(update={"ended_at": row.seen_at, "end": LOST})
