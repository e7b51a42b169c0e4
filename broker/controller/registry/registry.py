"""The database of sessions, their jobs, keys, events and connections. The one writer is the controller.

Calls are short, blocking and safe from several threads; the controller makes them in worker threads. A session
changes only by `update`, a compare-and-set on its revision, so two writers never both win.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from broker.controller.registry.connection_rows import ConnectionRows
from broker.controller.registry.credential_rows import CredentialRows
from broker.controller.registry.models import Event, JobRecord, Session
from broker.controller.registry.transactions import column
from broker.errors import ConflictError, NotFoundError
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlmodel import Session as DBSession


@dataclass(frozen=True, slots=True)
class EventEntry:
    """An entry for the event log that is written together with a change."""

    actor: str
    action: str
    detail: str = ""


class JobHandover(NamedTuple):
    """The change of a session to another job."""

    values: Mapping[str, Any]
    """The new values of some columns, as the next job has them."""
    entry: EventEntry | None
    former: Mapping[str, Any]
    """What is still to be recorded of the job that has carried it until now: columns of its JobRecord."""


RowChange = tuple[Mapping[str, Any], EventEntry | None] | JobHandover
"""The new values of some columns, and the event to record with them."""

Transition = Callable[[Session], "RowChange | None"]
"""Says how a session changes, given how it is."""


class Registry(CredentialRows, ConnectionRows):
    """One open database. Make it with `open_registry`."""

    # Sessions

    def create(self, session: Session, entry: EventEntry) -> Session:
        """Add a new session; ConflictError when its owner has one of that name."""
        try:
            with self.transaction() as db:
                db.add(session)
                db.add(_event(session, entry))
                db.flush()
                if session.submission:
                    record = JobRecord(
                        session_id=session.id, submission=session.submission, asked_at=session.created_at
                    )
                    record.gpus = session.gpus
                    db.add(record)
        except IntegrityError as error:
            raise ConflictError(f"you have a session named {session.name} already") from error
        return session

    def restore(self, session: Session) -> bool:
        """Add a session found in a manifest; False if its id is there already, ConflictError if its name is taken."""
        try:
            with self.transaction() as db:
                if db.get(Session, session.id) is not None:
                    return False
                db.add(session)
                db.add(_event(session, EventEntry("berth", "restored", "from its manifest")))
        except IntegrityError as error:
            if self.find(session.owner, session.name) is None:
                raise
            raise ConflictError(f"{session.owner} has another session named {session.name}") from error
        return True

    def find(self, owner: str, name: str) -> Session | None:
        """The session of that name; a deleted one is none."""
        query = select(Session).where(
            column(Session.owner) == owner,
            column(Session.name) == name,
            column(Session.state) != SessionState.DELETED,
        )
        with self.transaction() as db:
            return db.execute(query).scalar_one_or_none()

    def get(self, session_id: str) -> Session | None:
        """The session with that id, deleted ones too."""
        with self.transaction() as db:
            return db.get(Session, session_id)

    def require(self, session_id: str) -> Session:
        """The session with that id, deleted ones too; NotFoundError if there is none."""
        session = self.get(session_id)
        if session is None:
            raise _no_session(session_id)
        return session

    def last_deleted(self, owner: str, name: str) -> Session | None:
        """The tombstone that had that name last: sessions have a name one after the other."""
        deleted = column(Session.state) == SessionState.DELETED
        query = select(Session).where(column(Session.owner) == owner, column(Session.name) == name, deleted)
        return max(self.all_rows(query), key=_last_had_its_name, default=None)

    def kept_deleted(self, owner: str | None = None, *, over_at: float | None = None) -> list[Session]:
        """Sessions whose deleted data is kept still: everybody's or one user's; with `over_at`, those whose grace is
        over by then. The one that was deleted first comes first.
        """
        query = select(Session).where(column(Session.kept_until).is_not(None))
        if owner is not None:
            query = query.where(column(Session.owner) == owner)
        if over_at is not None:
            query = query.where(column(Session.kept_until) <= over_at, column(Session.state) == SessionState.DELETED)
        return self.all_rows(query.order_by(column(Session.kept_until)))

    def sessions_of(self, owner: str) -> list[Session]:
        query = (
            select(Session)
            .where(column(Session.owner) == owner, column(Session.state) != SessionState.DELETED)
            .order_by(column(Session.name))
        )
        return self.all_rows(query)

    def in_states(self, states: Iterable[SessionState]) -> list[Session]:
        return self.all_rows(select(Session).where(column(Session.state).in_(list(states))))

    def count(self) -> dict[SessionState, int]:
        """How many sessions there are, by state."""
        state = column(Session.state)
        with self.transaction() as db:
            return {row[0]: row[1] for row in db.execute(select(state, func.count()).group_by(state))}

    def count_idle_gpus(self) -> float:
        """How many GPUs ready sessions have that do no work."""
        idle = (column(Session.state) == SessionState.READY, column(Session.gpu_idle_since).is_not(None))
        with self.transaction() as db:
            return float(db.execute(select(func.sum(column(Session.gpus))).where(*idle)).scalar_one() or 0)

    def revisions(self, ids: Iterable[str]) -> dict[str, int]:
        """Return the revisions of the sessions with those ids, deleted ones too; one that is unknown has none."""
        query = select(column(Session.id), column(Session.revision)).where(column(Session.id).in_(list(ids)))
        with self.transaction() as db:
            return {row[0]: row[1] for row in db.execute(query)}

    def by_ids(self, ids: Iterable[str]) -> list[Session]:
        wanted = list(ids)
        return self.all_rows(select(Session).where(column(Session.id).in_(wanted))) if wanted else []

    def update(self, session_id: str, decide: Transition) -> Session:
        """Change a session by compare-and-set: `decide` sees it as it is and returns the new values, or None for no
        change.

        `decide` is called again when somebody else was faster, so it must have no effects. It may raise, which changes
        nothing. Values equal to the old ones are no change. Returns the session as it then is. ConflictError if it was
        to get a name that another has.
        """
        try:
            return self._update(session_id, decide)
        except IntegrityError as error:
            raise ConflictError("its owner has another session of that name") from error

    def _update(self, session_id: str, decide: Transition) -> Session:
        while True:
            with self.transaction() as db:
                session = db.get(Session, session_id)
                if session is None:
                    raise _no_session(session_id)
                decision = decide(session)
                if decision is None:
                    return session
                values, entry, *former = decision
                changed = {name: value for name, value in values.items() if getattr(session, name) != value}
                if not changed:
                    return session
                statement = (
                    update(Session)
                    .where(column(Session.id) == session_id, column(Session.revision) == session.revision)
                    .values(**changed, revision=session.revision + 1)
                    .execution_options(synchronize_session=False)
                )
                if db.connection().execute(statement).rowcount != 1:
                    continue
                if former:
                    _record_job(db, session, *former)
                db.refresh(session)
                if entry is not None:
                    db.add(_event(session, entry))
                _record_job(db, session, changed)
                return session

    def host_keys_of_deleted(self, owner: str, since: float) -> list[str]:
        """The host keys of the user's sessions that are deleted and have been started after that time."""
        query = select(column(Session.host_key)).where(
            column(Session.owner) == owner,
            column(Session.state) == SessionState.DELETED,
            column(Session.submitted_at) > since,
            column(Session.host_key) != "",
        )
        return self.all_rows(query)

    def note_use(self, connected: Collection[str], active: Collection[str], at: float) -> None:
        """Somebody is connected to these sessions, and works in those. Nobody waits for that to change, so it makes no
        new revision.
        """
        with self.transaction() as db:
            for ids, values in ((connected, {"used_at": at}), (active, {"active_at": at})):
                if ids:
                    db.connection().execute(update(Session).where(column(Session.id).in_(list(ids))).values(values))

    # Jobs, events

    def jobs_of(self, session_id: str) -> list[JobRecord]:
        """Every submission of a session, oldest first."""
        query = select(JobRecord).where(column(JobRecord.session_id) == session_id)
        return self.all_rows(query.order_by(column(JobRecord.submission)))

    def record(self, session: Session, entry: EventEntry) -> None:
        """Add an event that goes with no change."""
        with self.transaction() as db:
            db.add(_event(session, entry))

    def events_of(self, owner: str, session_id: str | None = None, limit: int = 1000) -> list[Event]:
        """The newest `limit` events of one user's sessions, or of one of them, oldest first."""
        query = select(Event).where(column(Event.owner) == owner)
        if session_id is not None:
            query = query.where(column(Event.session_id) == session_id)
        return self.all_rows(query.order_by(column(Event.id).desc()).limit(limit))[::-1]

    def count_events(self, owner: str, action: str, since: float) -> int:
        """How many events of that kind the user's sessions have had since then."""
        query = (
            select(func.count())
            .select_from(Event)
            .where(column(Event.owner) == owner, column(Event.action) == action, column(Event.at) > since)
        )
        with self.transaction() as db:
            return int(db.execute(query).scalar_one())


def _last_had_its_name(session: Session) -> float:
    """A time at which it had it, later than any at which those before it had."""
    return max(session.created_at, session.intent.asked_at if session.intent is not None else 0.0)


def _no_session(session_id: str) -> NotFoundError:
    return NotFoundError(f"there is no session with the id {session_id}")


def _event(session: Session, entry: EventEntry) -> Event:
    return Event(
        at=time.time(),
        actor=entry.actor,
        owner=session.owner,
        session_id=session.id,
        session=session.name,
        action=entry.action,
        detail=entry.detail[:2000],
    )


_JOB_COLUMNS = ("job_id", "node", "submitted_at", "started_at", "ended_at", "outcome", "restarts", "gpus")


def _record_job(db: DBSession, session: Session, changed: Mapping[str, Any]) -> None:
    """Carry a session's change over to the row of the job that it is about."""
    if not session.submission:
        return
    record = db.get(JobRecord, (session.id, session.submission))
    if record is None:
        record = JobRecord(session_id=session.id, submission=session.submission, asked_at=time.time())
        record.gpus = session.gpus
        db.add(record)
    for name in _JOB_COLUMNS:
        if changed.get(name):
            setattr(record, name, changed[name])
    if changed.get("outcome") or (
        session.outcome and changed.get("reason")
    ):  # the reason why it waited is none any more
        record.reason = changed.get("reason", session.reason)
