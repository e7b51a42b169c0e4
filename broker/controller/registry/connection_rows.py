"""Rows of connections to sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from broker.controller.registry.connection_model import Connection
from broker.controller.registry.transactions import Transactions, column

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_CONNECTION_NEWS = ("seen_at", "ended_at", "sent", "received", "end")
"""The columns of a connection that a later report changes."""
_ALL_ROWS = 2**31 - 1
"""SQLite takes an OFFSET only after a LIMIT."""


class ConnectionRows(Transactions):
    """Queries on the table `connection`."""

    def note_connections(self, rows: Iterable[Connection]) -> dict[str, int | None]:
        """Store these records, and return the bytes that each has carried since its last record; None for a new one.

        Of a known record only bytes and end change. An ended connection does not open again. A record whose id belongs
        to another connection is omitted.
        """
        reported = {row.id: row for row in rows}
        try:
            return self._note_connections(reported)
        except IntegrityError:  # another report has added one of them meanwhile
            return self._note_connections({row.id: Connection(**row.model_dump()) for row in reported.values()})

    def _note_connections(self, reported: dict[str, Connection]) -> dict[str, int | None]:
        carried: dict[str, int | None] = {}
        with self.transaction() as db:
            found = db.execute(select(Connection).where(column(Connection.id).in_(list(reported)))).scalars()
            known = {row.id: row for row in found}
            for row in reported.values():
                before = known.get(row.id)
                if before is None:
                    db.add(row)
                    carried[row.id] = None
                elif before.is_same(row):
                    carried[row.id] = row.sent + row.received - before.sent - before.received
                    if row.ended_at is not None or before.ended_at is None:
                        for name in _CONNECTION_NEWS:
                            setattr(before, name, getattr(row, name))
        return carried

    def known_connections(self, ids: Collection[str]) -> list[Connection]:
        """Return the records that have one of these ids."""
        return self.all_rows(select(Connection).where(column(Connection.id).in_(list(ids)))) if ids else []

    def count_own_connections(self, owner: str, since: float) -> int:
        """Return the number of open connections that `owner` itself, and no gateway, has reported after that time."""
        query = (
            select(func.count())
            .select_from(Connection)
            .where(
                column(Connection.owner) == owner,
                column(Connection.gateway) == "",
                column(Connection.ended_at).is_(None),
                column(Connection.seen_at) > since,
            )
        )
        with self.transaction() as db:
            return int(db.execute(query).scalar_one())

    def trim_connections(self, owner: str, keep: int, *, own: bool) -> int:
        """Remove all but the newest `keep` records of the owner's sessions; return the number of removed ones.

        With `own`, count those that the owner has reported, else those of gateways.
        """
        reporter = column(Connection.gateway) == "" if own else column(Connection.gateway) != ""
        old = (
            select(column(Connection.id))
            .where(column(Connection.owner) == owner, reporter)
            .order_by(column(Connection.seen_at).desc(), column(Connection.id).desc())
            .offset(keep)
            .limit(_ALL_ROWS)
        )
        with self.transaction() as db:
            return db.connection().execute(delete(Connection).where(column(Connection.id).in_(old))).rowcount

    def owners_of_connections(self, more_than: int) -> list[str]:
        """Return the owners with more records than that."""
        owner = column(Connection.owner)
        return self.all_rows(select(owner).group_by(owner).having(func.count() > more_than))

    def connections_of(
        self, owner: str, session_id: str | None = None, *, standing: bool = False, limit: int = 1000
    ) -> list[Connection]:
        """Return the newest `limit` connections to one or all of a user's sessions, oldest first.

        `standing`: only those whose end has not been reported.
        """
        query = select(Connection).where(column(Connection.owner) == owner)
        if session_id is not None:
            query = query.where(column(Connection.session_id) == session_id)
        if standing:
            query = query.where(column(Connection.ended_at).is_(None))
        return self.all_rows(query.order_by(column(Connection.began_at).desc()).limit(limit))[::-1]

    def forget_connections(self, before: float) -> int:
        """Remove the records that were last reported before that time. Return their number."""
        with self.transaction() as db:
            return db.connection().execute(delete(Connection).where(column(Connection.seen_at) < before)).rowcount
