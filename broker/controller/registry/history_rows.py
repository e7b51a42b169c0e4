"""Rows that are kept for the history alone: events, former jobs, and the rows of deleted sessions without data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, exists, func, select

from broker.controller.registry.event_model import Event
from broker.controller.registry.models import JobRow, Session
from broker.controller.registry.session_rows import IS_DELETED
from broker.controller.registry.transactions import Transactions, column

if TYPE_CHECKING:
    from sqlalchemy import Select

MAX_ROWS_AT_ONCE = 1000
"""Rows of a kind that one transaction removes: the database is locked meanwhile."""


class RemovedHistory(NamedTuple):
    """Numbers of removed rows."""

    events: int
    jobs: int
    sessions: int


class HistoryRows(Transactions):
    """Removal of rows that are older than the site wants to keep them."""

    def remove_history(self, before: float) -> RemovedHistory:
        """Remove at most MAX_ROWS_AT_ONCE rows of each kind that are older than the time `before`.

        These are events, jobs that ended before it (neither the present job of a session nor its successor), and
        deleted sessions without data and without any event since. Call it again until it removes nothing.
        """
        with self.transaction() as db:
            jobs = db.execute(_former_jobs(before)).all()
            sessions = list(db.execute(_deleted_sessions(before)).scalars())
            connection = db.connection()
            old_events = select(column(Event.id)).where(column(Event.at) < before).limit(MAX_ROWS_AT_ONCE)
            events = connection.execute(delete(Event).where(column(Event.id).in_(old_events))).rowcount
            for session_id, submission in jobs:
                is_job = (column(JobRow.session_id) == session_id, column(JobRow.submission) == submission)
                connection.execute(delete(JobRow).where(*is_job))
            connection.execute(delete(JobRow).where(column(JobRow.session_id).in_(sessions)))
            connection.execute(delete(Session).where(column(Session.id).in_(sessions)))
        return RemovedHistory(events, len(jobs), len(sessions))


def _former_jobs(before: float) -> Select[tuple[str, int]]:
    """Select session id and number of jobs that ended before that time, and of those whose end is unknown by their
    request.
    """
    is_former = column(JobRow.submission).not_in((column(Session.submission), column(Session.successor)))
    over_at = func.coalesce(column(JobRow.ended_at), column(JobRow.asked_at))
    return (
        select(column(JobRow.session_id), column(JobRow.submission))
        .join(Session, column(Session.id) == column(JobRow.session_id))
        .where(is_former, over_at < before)
        .limit(MAX_ROWS_AT_ONCE)
    )


def _deleted_sessions(before: float) -> Select[tuple[str]]:
    """Select the ids of deleted sessions without data that no event names any more."""
    has_events = exists().where(column(Event.session_id) == column(Session.id))
    return (
        select(column(Session.id))
        .where(IS_DELETED, column(Session.kept_until).is_(None), column(Session.created_at) < before, ~has_events)
        .limit(MAX_ROWS_AT_ONCE)
    )
