"""The database of sessions, their jobs, keys, events and connections. The one writer is the controller.

Calls are short, blocking and safe from several threads; the controller makes them in worker threads. A session
changes only by `update`, a compare-and-set on its revision, so two writers never both win.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import sqlalchemy
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlmodel import Session as DBSession

from broker.controller.registry.models import Certificate, Connection, Event, JobRecord, Key, Session
from broker.errors import BerthError, ConflictError, NotFoundError
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator


class RegistryError(BerthError):
    """The database cannot be used. The message names the database and the reason."""

    reason = "registry"
    status = 503


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


class Lock(Protocol):
    """The lock on the database, which one controller holds."""

    def check(self) -> None:
        """Return if this process may use the database; RegistryError while it may have lost the lock."""

    def guard(self, engine: sqlalchemy.Engine) -> None:
        """Let `engine` connect only to the server that has the lock."""


class Registry:
    """One open database. Make it with `open_registry`."""

    def __init__(self, engine: sqlalchemy.Engine, lock: Lock | None = None) -> None:
        self._engine = engine
        self._lock = lock

    def close(self) -> None:
        self._engine.dispose()

    # Sessions

    def create(self, session: Session, entry: EventEntry) -> Session:
        """Add a new session; ConflictError when its owner has one of that name."""
        try:
            with self._transaction() as db:
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
            with self._transaction() as db:
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
            _column(Session.owner) == owner,
            _column(Session.name) == name,
            _column(Session.state) != SessionState.DELETED,
        )
        with self._transaction() as db:
            return db.execute(query).scalar_one_or_none()

    def get(self, session_id: str) -> Session | None:
        """The session with that id, deleted ones too."""
        with self._transaction() as db:
            return db.get(Session, session_id)

    def last_deleted(self, owner: str, name: str) -> Session | None:
        """The tombstone that had that name last: sessions have a name one after the other."""
        deleted = _column(Session.state) == SessionState.DELETED
        query = select(Session).where(_column(Session.owner) == owner, _column(Session.name) == name, deleted)
        return max(self._all(query), key=_last_had_its_name, default=None)

    def kept_deleted(self, owner: str | None = None, *, over_at: float | None = None) -> list[Session]:
        """Sessions whose deleted data is kept still: everybody's or one user's; with `over_at`, those whose grace is
        over by then. The one that was deleted first comes first.
        """
        query = select(Session).where(_column(Session.kept_until).is_not(None))
        if owner is not None:
            query = query.where(_column(Session.owner) == owner)
        if over_at is not None:
            query = query.where(_column(Session.kept_until) <= over_at, _column(Session.state) == SessionState.DELETED)
        return self._all(query.order_by(_column(Session.kept_until)))

    def sessions_of(self, owner: str) -> list[Session]:
        query = (
            select(Session)
            .where(_column(Session.owner) == owner, _column(Session.state) != SessionState.DELETED)
            .order_by(_column(Session.name))
        )
        return self._all(query)

    def in_states(self, states: Iterable[SessionState]) -> list[Session]:
        return self._all(select(Session).where(_column(Session.state).in_(list(states))))

    def count(self) -> dict[SessionState, int]:
        """How many sessions there are, by state."""
        state = _column(Session.state)
        with self._transaction() as db:
            return {row[0]: row[1] for row in db.execute(select(state, func.count()).group_by(state))}

    def count_idle_gpus(self) -> float:
        """How many GPUs ready sessions have that do no work."""
        idle = (_column(Session.state) == SessionState.READY, _column(Session.gpu_idle_since).is_not(None))
        with self._transaction() as db:
            return float(db.execute(select(func.sum(_column(Session.gpus))).where(*idle)).scalar_one() or 0)

    def revisions(self, ids: Iterable[str]) -> dict[str, int]:
        """Return the revisions of the sessions with those ids, deleted ones too; one that is unknown has none."""
        query = select(_column(Session.id), _column(Session.revision)).where(_column(Session.id).in_(list(ids)))
        with self._transaction() as db:
            return {row[0]: row[1] for row in db.execute(query)}

    def by_ids(self, ids: Iterable[str]) -> list[Session]:
        wanted = list(ids)
        return self._all(select(Session).where(_column(Session.id).in_(wanted))) if wanted else []

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
            with self._transaction() as db:
                session = db.get(Session, session_id)
                if session is None:
                    raise NotFoundError(f"there is no session with the id {session_id}")
                decision = decide(session)
                if decision is None:
                    return session
                values, entry, *former = decision
                changed = {name: value for name, value in values.items() if getattr(session, name) != value}
                if not changed:
                    return session
                statement = (
                    update(Session)
                    .where(_column(Session.id) == session_id, _column(Session.revision) == session.revision)
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

    # Jobs, keys, events

    def jobs_of(self, session_id: str) -> list[JobRecord]:
        """Every submission of a session, oldest first."""
        query = select(JobRecord).where(_column(JobRecord.session_id) == session_id)
        return self._all(query.order_by(_column(JobRecord.submission)))

    def keys_of(self, owner: str) -> list[Key]:
        return self._all(select(Key).where(_column(Key.owner) == owner).order_by(_column(Key.added_at)))

    def add_key(self, key: Key) -> Key:
        """Add a public key; ConflictError when its owner has it already."""
        try:
            with self._transaction() as db:
                db.add(key)
        except IntegrityError as error:
            raise ConflictError(f"the key {key.fingerprint} is there already") from error
        return key

    def remove_key(self, owner: str, fingerprint: str) -> Key:
        query = select(Key).where(_column(Key.owner) == owner, _column(Key.fingerprint) == fingerprint)
        with self._transaction() as db:
            key: Key | None = db.execute(query).scalar_one_or_none()
            if key is None:
                raise NotFoundError(f"you have added no key {fingerprint}", hint="`berth key list` shows them")
            db.delete(key)
            return key

    def record(self, session: Session, entry: EventEntry) -> None:
        """Add an event that goes with no change."""
        with self._transaction() as db:
            db.add(_event(session, entry))

    def events_of(self, owner: str, session_id: str | None = None, limit: int = 1000) -> list[Event]:
        """The newest `limit` events of one user's sessions, or of one of them, oldest first."""
        query = select(Event).where(_column(Event.owner) == owner)
        if session_id is not None:
            query = query.where(_column(Event.session_id) == session_id)
        return self._all(query.order_by(_column(Event.id).desc()).limit(limit))[::-1]

    def count_events(self, owner: str, action: str, since: float) -> int:
        """How many events of that kind the user's sessions have had since then."""
        query = (
            select(func.count())
            .select_from(Event)
            .where(_column(Event.owner) == owner, _column(Event.action) == action, _column(Event.at) > since)
        )
        with self._transaction() as db:
            return int(db.execute(query).scalar_one())

    # Certificates

    def issue_certificate(self, certificate: Certificate) -> Certificate:
        """Remember it in place of the last one for the same key, of which it has the end if that is later."""
        with self._transaction() as db:
            before = db.get(Certificate, (certificate.owner, certificate.fingerprint))
            if before is not None:
                certificate.valid_before = max(certificate.valid_before, before.valid_before)
            return db.merge(certificate)

    def certificates_of(self, owner: str, at: float) -> list[Certificate]:
        """Those that have not ended by that time, revoked ones too, the first issued first."""
        query = select(Certificate).where(_column(Certificate.owner) == owner, _column(Certificate.valid_before) > at)
        return self._all(query.order_by(_column(Certificate.issued_at)))

    def revoke_certificates(self, owner: str, fingerprint: str | None, at: float) -> list[Certificate]:
        """Revoke the one for that key, or all; those that were good until then."""
        with self._transaction() as db:
            query = select(Certificate).where(
                _column(Certificate.owner) == owner,
                _column(Certificate.valid_before) > at,
                _column(Certificate.revoked_at).is_(None),
            )
            if fingerprint is not None:
                query = query.where(_column(Certificate.fingerprint) == fingerprint)
            rows = list(db.execute(query).scalars())
            for row in rows:
                row.revoked_at = at
            return rows

    def host_keys_of_deleted(self, owner: str, since: float) -> list[str]:
        """The host keys of the user's sessions that are deleted and have been started after that time."""
        query = select(_column(Session.host_key)).where(
            _column(Session.owner) == owner,
            _column(Session.state) == SessionState.DELETED,
            _column(Session.submitted_at) > since,
            _column(Session.host_key) != "",
        )
        return self._all(query)

    # Connections

    def note_use(self, connected: Collection[str], active: Collection[str], at: float) -> None:
        """Somebody is connected to these sessions, and works in those. Nobody waits for that to change, so it makes no
        new revision.
        """
        with self._transaction() as db:
            for ids, values in ((connected, {"used_at": at}), (active, {"active_at": at})):
                if ids:
                    db.connection().execute(update(Session).where(_column(Session.id).in_(list(ids))).values(values))

    def note_connections(self, rows: Iterable[Connection]) -> dict[str, int | None]:
        """Keep these records, and return the bytes that each has carried since its last record; None for a new one.

        Of a known record only bytes and end change. One that has ended does not stand again, and one whose id belongs
        to another connection is left out.
        """
        reported = {row.id: row for row in rows}
        try:
            return self._note_connections(reported)
        except IntegrityError:  # another report has added one of them meanwhile: it is known now
            return self._note_connections({row.id: Connection(**row.model_dump()) for row in reported.values()})

    def _note_connections(self, reported: dict[str, Connection]) -> dict[str, int | None]:
        carried: dict[str, int | None] = {}
        with self._transaction() as db:
            found = db.execute(select(Connection).where(_column(Connection.id).in_(list(reported)))).scalars()
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
        return self._all(select(Connection).where(_column(Connection.id).in_(list(ids)))) if ids else []

    def count_own_connections(self, owner: str, since: float) -> int:
        """Return the number of open connections that `owner` itself, and no gateway, has reported after that time."""
        query = (
            select(func.count())
            .select_from(Connection)
            .where(
                _column(Connection.owner) == owner,
                _column(Connection.gateway) == "",
                _column(Connection.ended_at).is_(None),
                _column(Connection.seen_at) > since,
            )
        )
        with self._transaction() as db:
            return int(db.execute(query).scalar_one())

    def trim_connections(self, owner: str, keep: int, *, own: bool) -> int:
        """Remove all but the newest `keep` records of the owner's sessions that a gateway has reported, or with `own`
        the owner; return how many were removed.
        """
        told_by = _column(Connection.gateway) == "" if own else _column(Connection.gateway) != ""
        old = (
            select(_column(Connection.id))
            .where(_column(Connection.owner) == owner, told_by)
            .order_by(_column(Connection.seen_at).desc(), _column(Connection.id).desc())
            .offset(keep)
            .limit(_ALL_ROWS)
        )
        with self._transaction() as db:
            return db.connection().execute(delete(Connection).where(_column(Connection.id).in_(old))).rowcount

    def owners_of_connections(self, more_than: int) -> list[str]:
        """Return the owners with more records than that."""
        owner = _column(Connection.owner)
        return self._all(select(owner).group_by(owner).having(func.count() > more_than))

    def connections_of(
        self, owner: str, session_id: str | None = None, *, standing: bool = False, limit: int = 1000
    ) -> list[Connection]:
        """The newest `limit` connections to one user's sessions, or to one of them, the first that began first;
        `standing`: only those that have not ended, as far as anybody has said.
        """
        query = select(Connection).where(_column(Connection.owner) == owner)
        if session_id is not None:
            query = query.where(_column(Connection.session_id) == session_id)
        if standing:
            query = query.where(_column(Connection.ended_at).is_(None))
        return self._all(query.order_by(_column(Connection.began_at).desc()).limit(limit))[::-1]

    def forget_connections(self, before: float) -> int:
        """Remove the records that were last told of before that time; how many there were."""
        with self._transaction() as db:
            return db.connection().execute(delete(Connection).where(_column(Connection.seen_at) < before)).rowcount

    def _all(self, query: sqlalchemy.Select[Any]) -> list[Any]:
        with self._transaction() as db:
            return list(db.execute(query).scalars())

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[DBSession]:
        """A database session that commits on the way out, rolls back on an exception, and leaves its rows readable."""
        try:
            with DBSession(self._engine, expire_on_commit=False) as db, db.begin():
                self._check_lock()
                yield db
                self._check_lock()
        except OperationalError as error:
            raise RegistryError(
                f"the registry cannot be used now: {error.orig}", hint="try again; the controller's log has the cause"
            ) from error

    def _check_lock(self) -> None:
        """Return if this process may use the database; RegistryError while it may have lost the lock on it."""
        if self._lock is not None:
            self._lock.check()


def _last_had_its_name(session: Session) -> float:
    """A time at which it had it, later than any at which those before it had."""
    return max(session.created_at, session.intent.asked_at if session.intent is not None else 0.0)


def _column(attribute: Any) -> Any:  # noqa: ANN401 - SQLModel declares columns as their values' types
    return attribute


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


_CONNECTION_NEWS = ("seen_at", "ended_at", "sent", "received", "end")
"""The columns of a connection that a later record of it changes."""
_ALL_ROWS = 2**31 - 1
"""SQLite takes an OFFSET only after a LIMIT."""

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
