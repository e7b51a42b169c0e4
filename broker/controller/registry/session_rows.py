"""Rows of sessions: the queries that read them.

Queries of sessions that are not deleted say so in SQL's own words, without a parameter: only then do SQLite and
PostgreSQL use an index of these rows alone (sqlite.org/partialindex.html), so that the rows of deleted sessions cost a
query nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import String, and_, cast, func, literal_column, or_, select

from broker.controller.registry.connection_model import Connection
from broker.controller.registry.models import JobRow, Session
from broker.controller.registry.transactions import Transactions, column
from broker.errors import NotFoundError
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement

_DELETED: ColumnElement[str] = literal_column("'deleted'")
NOT_DELETED = column(Session.state) != _DELETED
IS_DELETED = column(Session.state) == _DELETED


def is_present_job() -> ColumnElement[bool]:
    """Return the condition that a job is the present one of its session."""
    return and_(
        column(JobRow.session_id) == column(Session.id), column(JobRow.submission) == column(Session.submission)
    )


class SessionRows(Transactions):
    """Queries on the table `session`."""

    def find(self, owner: str, name: str) -> Session | None:
        """Return the session of that name, unless it is deleted."""
        query = select(Session).where(
            column(Session.owner) == owner,
            column(Session.name) == name,
            NOT_DELETED,
        )
        with self.transaction() as db:
            return db.execute(query).scalar_one_or_none()

    def get(self, session_id: str) -> Session | None:
        """Return the session with that id, including a deleted one."""
        with self.transaction() as db:
            return db.get(Session, session_id)

    def require(self, session_id: str) -> Session:
        """Return the session with that id, including a deleted one; NotFoundError if there is none."""
        session = self.get(session_id)
        if session is None:
            raise no_session(session_id)
        return session

    def last_deleted(self, owner: str, name: str) -> Session | None:
        """Return the deleted session that had that name last."""
        query = select(Session).where(column(Session.owner) == owner, column(Session.name) == name, IS_DELETED)
        return max(self.all_rows(query), key=_last_had_its_name, default=None)

    def kept_deleted(self, owner: str | None = None, *, over_at: float | None = None) -> list[Session]:
        """Return the deleted sessions whose data is kept, of one or all users, in the order of their deletion.

        With `over_at`, return those whose grace time is over at that time.
        """
        query = select(Session).where(column(Session.kept_until).is_not(None))
        if owner is not None:
            query = query.where(column(Session.owner) == owner)
        if over_at is not None:
            query = query.where(column(Session.kept_until) <= over_at, IS_DELETED)
        return self.all_rows(query.order_by(column(Session.kept_until)))

    def sessions_of(self, owner: str, states: Iterable[SessionState] | None = None) -> list[Session]:
        """Return a user's sessions in the order of their names; all but deleted ones, or only those in `states`."""
        query = select(Session).where(column(Session.owner) == owner, NOT_DELETED)
        if states is not None:
            query = query.where(column(Session.state).in_(list(states)))
        return self.all_rows(query.order_by(column(Session.name)))

    def has_one_session(self, owner: str) -> bool:
        """Whether the user has exactly one session."""
        query = select(column(Session.id)).where(column(Session.owner) == owner, NOT_DELETED).limit(2)
        return len(self.all_rows(query)) == 1

    def shared_sessions(self) -> list[Session]:
        """Return all users' sessions with grants, in the order of owners and names."""
        query = select(Session).where(NOT_DELETED, cast(column(Session.grants), String) != "[]")
        return self.all_rows(query.order_by(column(Session.owner), column(Session.name)))

    def followers(self) -> list[Session]:
        """Return all users' sessions that follow a channel or a version."""
        return self.all_rows(select(Session).where(NOT_DELETED, column(Session.follow) != ""))

    def sessions_with_guests(self) -> list[Session]:
        """Return the sessions with grants, and those with a connection of another user whose end is not reported."""
        connected = select(column(Connection.session_id)).where(
            column(Connection.ended_at).is_(None), column(Connection.user) != column(Connection.owner)
        )
        shared = cast(column(Session.grants), String) != "[]"
        query = select(Session).where(NOT_DELETED, or_(shared, column(Session.id).in_(connected)))
        return self.all_rows(query.order_by(column(Session.owner), column(Session.name)))

    def all_sessions(
        self,
        owner: str | None = None,
        *,
        node: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> list[Session]:
        """Return the sessions of all users, or of one, in the order of owners and names.

        With `node`, return those whose present or held job has run there. `after`: only those behind this owner and
        name. At most `limit` rows are read.
        """
        query = select(Session).where(NOT_DELETED)
        if owner is not None:
            query = query.where(column(Session.owner) == owner)
        if node is not None:
            present = column(JobRow.submission) == column(Session.submission)
            held = column(JobRow.job_id) == column(Session.held_job_id)
            on_node = select(column(JobRow.session_id)).where(
                column(JobRow.session_id) == column(Session.id), column(JobRow.node) == node, or_(present, held)
            )
            query = query.where(on_node.exists())
        if after is not None:
            later = and_(column(Session.owner) == after[0], column(Session.name) > after[1])
            query = query.where(or_(column(Session.owner) > after[0], later))
        return self.all_rows(query.order_by(column(Session.owner), column(Session.name)).limit(limit))

    def in_states(self, states: Iterable[SessionState]) -> list[Session]:
        """Return the sessions in these states; none of them is `deleted`."""
        return self.all_rows(select(Session).where(NOT_DELETED, column(Session.state).in_(list(states))))

    def newest_in_states(self, states: Iterable[SessionState], limit: int) -> list[Session]:
        """Return at most `limit` sessions in these states, none of them `deleted`, whose jobs were requested last."""
        query = (
            select(Session).join(JobRow, is_present_job()).where(NOT_DELETED, column(Session.state).in_(list(states)))
        )
        return self.all_rows(query.order_by(column(JobRow.asked_at).desc()).limit(limit))

    def count(self) -> dict[SessionState, int]:
        """Return the number of sessions in each state but `deleted`."""
        state = column(Session.state)
        query = select(state, func.count()).where(NOT_DELETED).group_by(state)
        with self.transaction() as db:
            return {row[0]: row[1] for row in db.execute(query)}

    def count_idle_gpus(self) -> float:
        """Return the number of idle GPUs of ready sessions."""
        query = select(func.sum(column(JobRow.gpus))).where(
            is_present_job(),
            column(JobRow.gpu_idle_since).is_not(None),
            NOT_DELETED,
            column(Session.state) == SessionState.READY,
        )
        with self.transaction() as db:
            return float(db.execute(query).scalar_one() or 0)

    def revisions(self, ids: Iterable[str]) -> dict[str, int]:
        """Return the revisions of the sessions with those ids, including deleted ones. Unknown ids are omitted."""
        query = select(column(Session.id), column(Session.revision)).where(column(Session.id).in_(list(ids)))
        with self.transaction() as db:
            return {row[0]: row[1] for row in db.execute(query)}

    def revisions_in(self, states: Iterable[SessionState]) -> dict[str, int]:
        """Return the revisions of all sessions in these states, none of them `deleted`, by id.

        This takes a fraction of the time of reading the rows.
        """
        of_states = (NOT_DELETED, column(Session.state).in_(list(states)))
        query = select(column(Session.id), column(Session.revision)).where(*of_states)
        with self.transaction() as db:
            return {row[0]: row[1] for row in db.execute(query)}

    def by_ids(self, ids: Iterable[str]) -> list[Session]:
        known = list(ids)
        return self.all_rows(select(Session).where(column(Session.id).in_(known))) if known else []

    def revoked_host_keys(self, owner: str, since: float) -> list[str]:
        """Return the host keys of the user's deleted sessions that were started after that time, and of all sessions
        the keys that were replaced after it.
        """
        started = select(column(JobRow.session_id)).where(column(JobRow.submitted_at) > since)
        query = select(column(Session.host_key)).where(
            column(Session.owner) == owner,
            IS_DELETED,
            column(Session.id).in_(started),
            column(Session.host_key) != "",
        )
        replaced = select(column(Session.former_host_keys)).where(column(Session.owner) == owner)
        former = [entry for entries in self.all_rows(replaced) for entry in entries]
        return self.all_rows(query) + [entry["key"] for entry in former if entry["replaced_at"] > since]


def _last_had_its_name(session: Session) -> float:
    """Return a time at which the session had its name: it orders the sessions that had one name one after the other."""
    return max(session.created_at, session.last_operation.asked_at if session.last_operation is not None else 0.0)


def no_session(session_id: str) -> NotFoundError:
    return NotFoundError(f"there is no session with the id {session_id}")
