"""The database of sessions, their jobs, keys, events and connections. The one writer is the controller.

Calls are short, blocking and safe from several threads; the controller makes them in threads. A session
changes only by `update`, a compare-and-set on its revision, so two writers never both win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from broker.controller import clock
from broker.controller.registry.connection_rows import ConnectionRows
from broker.controller.registry.credential_rows import CredentialRows
from broker.controller.registry.event_model import Event
from broker.controller.registry.history_rows import HistoryRows
from broker.controller.registry.models import JobRow, Session
from broker.controller.registry.session_rows import SessionRows, no_session
from broker.controller.registry.transactions import column
from broker.controller.registry.web_rows import WebRows
from broker.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlmodel import Session as DBSession


@dataclass(frozen=True, slots=True)
class EventEntry:
    """An entry for the event log that is written together with a change."""

    actor: str
    action: str
    detail: str = ""


_NOTHING: Mapping[str, Any] = MappingProxyType({})


class JobChange(NamedTuple):
    """The change of a session and of its jobs, as new values of some columns. A new job gets a row."""

    values: Mapping[str, Any]
    entry: EventEntry | None
    job: Mapping[str, Any] = _NOTHING
    """Columns of the session's job after the change."""
    next_job: Mapping[str, Any] = _NOTHING
    """Columns of the successor after the change."""
    former: Mapping[str, Any] = _NOTHING
    """Columns of the session's job before the change, if `values` name another one."""


RowChange = tuple[Mapping[str, Any], EventEntry | None] | JobChange
"""The new values of some columns of the session, and the event to record with them."""

Transition = Callable[[Session], "RowChange | None"]
"""Returns the change of a session, given the current one."""


def changes(session: Session, decision: RowChange) -> bool:
    """Whether recording the decision would change the session or its jobs."""
    change = JobChange(*decision)
    return bool(_changed_values(session, change.values)) or any(
        _changed_values(*each) for each in _jobs_of_change(session, change)
    )


class Registry(SessionRows, HistoryRows, CredentialRows, ConnectionRows, WebRows):
    """One open database. Make it with `open_registry`."""

    on_change: Callable[[Session], None] = staticmethod(lambda _: None)
    """Called with each new revision of a session after its commit, in the thread of the call."""

    # Sessions

    def create(self, session: Session, entry: EventEntry) -> Session:
        """Add a new session; ConflictError if its owner has one of that name."""
        try:
            with self.transaction() as db:
                db.add(session)
                db.add(_event(session, entry))
                db.flush()
                _add_jobs(db, session)
        except IntegrityError as error:
            raise ConflictError(f"you have a session named {session.name} already") from error
        self.on_change(session)
        return session

    def restore(self, session: Session) -> bool:
        """Add a session from a manifest. Return False if its id is known; ConflictError if its name is taken."""
        try:
            with self.transaction() as db:
                if db.get(Session, session.id) is not None:
                    return False
                db.add(session)
                db.add(_event(session, EventEntry("berth", "restored", "from its manifest")))
                db.flush()
                _add_jobs(db, session)
        except IntegrityError as error:
            if self.find(session.owner, session.name) is None:
                raise
            raise ConflictError(f"{session.owner} has another session named {session.name}") from error
        self.on_change(session)
        return True

    def update(self, session_id: str, decide: Transition) -> Session:
        """Change a session by compare-and-set, and return the current session.

        `decide` gets the current session and returns the new values, or None for no change. It is called again after a
        concurrent change, so it must have no side effects. If it raises, nothing changes. Values equal to the old ones
        are no change. ConflictError if another session has the new name.
        """
        try:
            session, has_changed = self._update(session_id, decide)
        except IntegrityError as error:
            raise ConflictError("its owner has another session of that name") from error
        if has_changed:
            self.on_change(session)
        return session

    def update_all(self, transitions: Mapping[str, Transition]) -> dict[str, Session]:
        """Change several sessions in one transaction, each by compare-and-set; return those that were changed, by id.

        A session that another writer changes meanwhile, or that does not exist, is omitted. If a transition raises, or
        the database refuses one of the changes, nothing changes. A thousand changes take a fifth of the time of so
        many calls of `update` (measured); the database is locked meanwhile, so give at most some hundred.
        """
        query = select(Session).where(column(Session.id).in_(list(transitions)))
        try:
            with self.transaction() as db:
                written = [
                    session.id
                    for session in db.execute(query).scalars().all()
                    if self._write(db, session, transitions[session.id])
                ]
                db.flush()
                db.expunge_all()
                query = select(Session).where(column(Session.id).in_(written))
                changed = {session.id: session for session in db.execute(query).scalars()} if written else {}
        except IntegrityError as error:
            raise ConflictError("one of these changes contradicts another session") from error
        for session in changed.values():
            self.on_change(session)
        return changed

    def _update(self, session_id: str, decide: Transition) -> tuple[Session, bool]:
        """Return the current session, and whether it was changed."""
        while True:
            with self.transaction() as db:
                session = db.get(Session, session_id)
                if session is None:
                    raise no_session(session_id)
                written = self._write(db, session, decide)
                if written is None:
                    continue
                if not written:
                    return session, False
                db.flush()
                db.expunge_all()
                return db.get_one(Session, session_id), True

    def _write(self, db: DBSession, session: Session, decide: Transition) -> bool | None:
        """Write the change that `decide` returns, and its event. Return whether there is one; None if another writer
        has changed the session since it was read. Then nothing was written.
        """
        decision = decide(session)
        if decision is None:
            return False
        change = JobChange(*decision)
        changed_jobs = _jobs_of_change(session, change)
        jobs = [(job.submission, new) for job, columns in changed_jobs if (new := _changed_values(job, columns))]
        values = _changed_values(session, change.values)
        if not values and not jobs:
            return False
        statement = (
            update(Session)
            .where(column(Session.id) == session.id, column(Session.revision) == session.revision)
            .values(**values, revision=session.revision + 1)
            .execution_options(synchronize_session=False)
        )
        if db.connection().execute(statement).rowcount != 1:
            return None
        _write_jobs(db, session, values, jobs)
        if change.entry is not None:
            db.add(_event(session, change.entry, values.get("name")))
        return True

    def note_use(self, connected: Collection[str], active: Collection[str], at: float) -> None:
        """Record that users are connected to the sessions `connected`, and active in the sessions `active`.

        This makes no new revision, because no request waits for it.
        """
        with self.transaction() as db:
            for ids, values in ((connected, {"used_at": at}), (active, {"active_at": at})):
                if ids:
                    db.connection().execute(update(Session).where(column(Session.id).in_(list(ids))).values(values))

    # Jobs, events

    def jobs_of(self, session_id: str) -> list[JobRow]:
        """Return the session's present and past jobs, oldest first."""
        query = select(JobRow).join(Session, column(Session.id) == column(JobRow.session_id))
        query = query.where(
            column(JobRow.session_id) == session_id, column(JobRow.submission) <= column(Session.submission)
        )
        return self.all_rows(query.order_by(column(JobRow.submission)))

    def record(self, session: Session, entry: EventEntry) -> None:
        """Add an event without a change."""
        with self.transaction() as db:
            db.add(_event(session, entry))

    def events_of(self, owner: str, session_id: str | None = None, limit: int = 1000) -> list[Event]:
        """Return the newest `limit` events of one or all of a user's sessions, oldest first."""
        query = select(Event).where(column(Event.owner) == owner)
        if session_id is not None:
            query = query.where(column(Event.session_id) == session_id)
        return self.all_rows(query.order_by(column(Event.id).desc()).limit(limit))[::-1]

    def audit_events(self, owner: str | None, since: float, limit: int) -> list[Event]:
        """Return the newest `limit` events since that time, of the sessions of all users or of one, oldest first."""
        query = select(Event).where(column(Event.at) >= since)
        if owner is not None:
            query = query.where(column(Event.owner) == owner)
        return self.all_rows(query.order_by(column(Event.id).desc()).limit(limit))[::-1]

    def count_events(self, owner: str, action: str, since: float) -> int:
        """Return the number of such events of the user's sessions since that time."""
        query = (
            select(func.count())
            .select_from(Event)
            .where(column(Event.owner) == owner, column(Event.action) == action, column(Event.at) > since)
        )
        with self.transaction() as db:
            return int(db.execute(query).scalar_one())


def _event(session: Session, entry: EventEntry, new_name: str | None = None) -> Event:
    return Event(
        at=clock.now(),
        actor=entry.actor,
        owner=session.owner,
        session_id=session.id,
        session=new_name or session.name,
        action=entry.action,
        detail=entry.detail[:2000],
    )


def _changed_values(row: Session | JobRow, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if getattr(row, name) != value}


def _jobs_of_change(session: Session, change: JobChange) -> list[tuple[JobRow, Mapping[str, Any]]]:
    """Return the rows of the jobs that the change concerns, including new ones, and their new values."""
    number = change.values.get("submission", session.submission)
    successor = change.values.get("successor", session.successor)
    numbered = [(number, change.job), (successor, change.next_job)]
    if number != session.submission:
        numbered.append((session.submission, change.former))
    return [(_job(session, submission), values) for submission, values in numbered if submission]


def _job(session: Session, submission: int) -> JobRow:
    return session.job_of(submission) or JobRow(session_id=session.id, submission=submission, asked_at=clock.now())


def _write_jobs(
    db: DBSession, session: Session, values: Mapping[str, Any], jobs: Iterable[tuple[int, Mapping[str, Any]]]
) -> None:
    """Write the changed jobs, add new ones, and remove a former successor."""
    dropped = session.next_job
    named = {number: values.get(number, getattr(session, number)) for number in ("submission", "successor")}
    new = dict(jobs)
    for submission in {*named.values(), *new} - {0}:
        known = session.job_of(submission) or db.get(JobRow, (session.id, submission))
        job = known or _job(session, submission)
        for name, value in new.get(submission, _NOTHING).items():
            setattr(job, name, value)
        db.add(job)
    if dropped is not None and dropped.submission not in named.values():
        db.delete(dropped)


def _add_jobs(db: DBSession, session: Session) -> None:
    """Add the rows of a new session's jobs."""
    if session.submission:
        session.job_row = session.job
        db.add(session.job_row)
    if session.next_job is not None:
        db.add(session.next_job)
