"""The clients that are connected to sessions, in memory, for the views of sessions (ADR 138).

A controller that has just started learns them from the next reports, which each gateway and `berth connect` send every
minute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.schema.connections import CONNECTION_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.controller.registry.connection_model import Connection
    from broker.controller.registry.models import Session
    from broker.controller.wakeup import ChangeNotifier

MAX_CLIENTS = 8
"""Addresses that the view of a session has at most."""


class _Open(NamedTuple):
    id: str
    owner: str
    address: str
    generation: str
    seen_at: float


class OpenConnections:
    """The open connections of all sessions. Change it on the event loop only."""

    def __init__(self, changes: ChangeNotifier) -> None:
        self._changes = changes
        self._open: dict[str, tuple[_Open, ...]] = {}
        """By session, the newest first. Views are made in other threads, so a tuple is replaced and never changed."""

    def clients(self, session: Session) -> list[str]:
        """Return the addresses of the clients that are connected to the session's present run, the newest first."""
        return _addresses(each for each in self._open.get(session.id, ()) if each.generation == session.generation)

    def record(self, rows: Iterable[Connection]) -> None:
        """Record connections as they were reported, and notify those who follow a session with other clients now."""
        for row in rows:
            known = self._open.get(row.session_id, ())
            others = tuple(each for each in known if each.id != row.id)
            opened = _Open(row.id, row.owner, row.peer.rpartition(":")[0], row.generation, row.seen_at)
            if row.ended_at is not None:
                self._replace(row.session_id, others)
            elif len(others) == len(known):
                self._replace(row.session_id, (opened, *others))
            else:
                self._replace(row.session_id, tuple(opened if each.id == row.id else each for each in known))

    def expire(self, now: float) -> None:
        """Remove the connections that were not reported for CONNECTION_TIMEOUT_S."""
        for session_id, known in list(self._open.items()):
            left = tuple(each for each in known if now - each.seen_at < CONNECTION_TIMEOUT_S)
            if len(left) < len(known):
                self._replace(session_id, left)

    def _replace(self, session_id: str, connections: tuple[_Open, ...]) -> None:
        before = self._open.pop(session_id, ())
        if connections:
            self._open[session_id] = connections
        owner = next((each.owner for each in (*before, *connections)), "")
        if _addresses(before) != _addresses(connections) and self._changes.is_followed(session_id, owner):
            self._changes.announce(session_id, owner)


def _addresses(connections: Iterable[_Open]) -> list[str]:
    return list(dict.fromkeys(each.address for each in connections))[:MAX_CLIENTS]
