"""A registry with many rows of deleted sessions and a long history, over SQLite and a real PostgreSQL server."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from broker.controller import clock
from broker.controller.registry import database, history_rows
from broker.controller.registry.database import open_registry
from broker.controller.registry.history_rows import RemovedHistory
from broker.controller.registry.models import Session
from broker.controller.registry.registry import EventEntry, JobChange, Registry, RowChange
from broker.controller.registry.transactions import RegistryError
from broker.errors import BerthError, ConflictError
from broker.schema.sessions import LIVE, SessionState
from tests.fakes.rows import make_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.postgresql import PostgreSQL

START = EventEntry("alice", "start")
WITHOUT_DELETED = "session_state|session_name"
"""The indexes without rows of deleted sessions; with few rows, PostgreSQL reads all of either."""
QUERIES: dict[str, tuple[Callable[[Registry], object], str]] = {
    "in_states": (lambda registry: registry.in_states(LIVE), WITHOUT_DELETED),
    "revisions_in": (lambda registry: registry.revisions_in(LIVE), WITHOUT_DELETED),
    "count": (lambda registry: registry.count(), WITHOUT_DELETED),
    "kept_deleted": (lambda registry: registry.kept_deleted(over_at=5.0), "session_kept_until"),
    "find": (lambda registry: registry.find("alice", "dev"), WITHOUT_DELETED),
    "sessions_of": (lambda registry: registry.sessions_of("alice"), WITHOUT_DELETED),
    "all_sessions": (lambda registry: registry.all_sessions(), WITHOUT_DELETED),
    "a page": (lambda registry: registry.all_sessions(after=("alice", "dev"), limit=5), WITHOUT_DELETED),
    "of a node": (lambda registry: registry.all_sessions(node="c1", limit=5), WITHOUT_DELETED),
    "last_deleted": (lambda registry: registry.last_deleted("alice", "dev"), "session_deleted_name"),
}
"""Queries of ticks, logins, lists and metrics, and the indexes that have only the rows that each needs."""
DELETED_ROWS = 500


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.url


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    with contextlib.closing(open_registry(url)) as opened:
        yield opened


class Statements:
    """The statements that a registry executes, and the transactions that it commits."""

    def __init__(self, registry: Registry) -> None:
        self.engine = registry._engine
        self.executed: list[tuple[str, object]] = []
        sqlalchemy.event.listen(self.engine, "before_cursor_execute", self._note)

    def _note(self, *arguments: object) -> None:
        statement, parameters = str(arguments[2]), arguments[3]
        self.executed.append((statement, parameters))

    def plan_of_last(self) -> str:
        """Return the database's plan for the last statement, if it may not read whole tables."""
        statement, parameters = self.executed[-1]
        is_sqlite = self.engine.dialect.name == "sqlite"
        with self.engine.connect() as connection:
            if not is_sqlite:  # in a small table, reading all of it is best
                connection.exec_driver_sql("SET enable_seqscan = off")
            explain = f"{'EXPLAIN QUERY PLAN' if is_sqlite else 'EXPLAIN'} {statement}"
            rows = connection.exec_driver_sql(explain, parameters).all()  # type: ignore[arg-type]  # as the driver got them
        return "\n".join(str(row[-1]) for row in rows)


@pytest.mark.parametrize("name", QUERIES)
def test_query_reads_an_index_of_the_rows_that_it_needs(registry: Registry, name: str) -> None:
    registry.create(make_session(), START)
    deleted = [make_session(state=SessionState.DELETED).model_dump() for _ in range(DELETED_ROWS)]
    with registry._engine.begin() as connection:
        connection.execute(sqlalchemy.insert(Session), deleted)
        connection.exec_driver_sql("ANALYZE")
    query, indexes = QUERIES[name]
    statements = Statements(registry)
    query(registry)
    plan = statements.plan_of_last()
    assert re.search(rf"\b({indexes})\b", plan), plan


def test_sessions_of_a_user_are_chosen_by_their_states(registry: Registry) -> None:
    for name, state in (("b", SessionState.READY), ("a", SessionState.QUEUED), ("c", SessionState.STOPPED)):
        registry.create(make_session(name=name, state=state), START)
    registry.create(make_session(name="d", state=SessionState.DELETED), START)
    registry.create(make_session(owner="bob"), START)
    registry.create(make_session(owner="bob", name="gone", state=SessionState.DELETED), START)
    assert [session.name for session in registry.sessions_of("alice", LIVE)] == ["a", "b"]
    assert [session.name for session in registry.sessions_of("alice")] == ["a", "b", "c"]
    assert [registry.has_one_session(owner) for owner in ("alice", "bob", "carol")] == [False, True, False]


def with_reason(reason: str) -> Callable[[Session], RowChange]:
    return lambda _: JobChange({"reason": reason}, EventEntry("berth", "noted", reason), job={"node": reason})


def test_many_sessions_are_changed_in_one_transaction(registry: Registry) -> None:
    ids = [registry.create(make_session(name=f"s{number}"), START).id for number in range(20)]
    notified: list[str] = []
    registry.on_change = lambda session: notified.append(f"{session.id} {session.reason}")
    commits: list[object] = []
    sqlalchemy.event.listen(registry._engine, "commit", commits.append)
    changed = registry.update_all({each: with_reason(each) for each in ids})
    assert len(commits) == 1
    assert {each: changed[each].reason for each in ids} == {each: each for each in ids}
    assert sorted(notified) == sorted(f"{each} {each}" for each in ids)
    stored = {session.id: session for session in registry.sessions_of("alice")}
    assert {each: stored[each].model_dump() for each in ids} == {each: changed[each].model_dump() for each in ids}
    assert {stored[each].job.node for each in ids} == set(ids)
    assert [event.action for event in registry.events_of("alice", ids[3])] == ["start", "noted"]


def test_change_of_many_omits_what_is_gone_unchanged_or_taken(registry: Registry) -> None:
    kept, other, renamed = (registry.create(make_session(name=name), START) for name in ("kept", "other", "renamed"))

    def after_another_writer(_: Session) -> RowChange:
        if registry._engine.dialect.name == "postgresql":
            registry.update(other.id, with_reason("first"))
        return {"reason": "second"}, None

    transitions: dict[str, Callable[[Session], RowChange | None]] = {
        other.id: after_another_writer,
        kept.id: lambda _: None,
        renamed.id: lambda _: ({"name": "new"}, EventEntry("alice", "rename")),
        "gone": with_reason("x"),
    }
    changed = registry.update_all(transitions)
    is_postgresql = registry._engine.dialect.name == "postgresql"  # SQLite has one writer at a time
    assert set(changed) == ({renamed.id} if is_postgresql else {other.id, renamed.id})
    assert registry.require(other.id).reason == ("first" if is_postgresql else "second")
    assert registry.events_of("alice", renamed.id)[-1].session == "new"


@pytest.mark.parametrize("refusal", ["transition", "name"])
def test_change_of_many_that_is_refused_changes_nothing(registry: Registry, refusal: str) -> None:
    first, second = (registry.create(make_session(name=name), START) for name in ("one", "two"))

    def refuse(_: Session) -> RowChange:
        if refusal == "transition":
            raise ConflictError("no")
        return {"name": "one"}, None

    with pytest.raises(ConflictError):
        registry.update_all({first.id: with_reason("x"), second.id: refuse})
    assert [registry.require(each.id).revision for each in (first, second)] == [0, 0]
    assert len(registry.events_of("alice")) == 2


class TestHistory:
    """Times are counted from 0; what is older than 100 is removed."""

    @pytest.fixture(autouse=True)
    def time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(clock, "now", lambda: self.now)

    def session(self, registry: Registry, name: str, *, at: float, state: SessionState, **values: Any) -> Session:  # noqa: ANN401 - columns of several types
        self.now = at
        return registry.create(make_session(name=name, state=state, created_at=at, **values), START)

    def test_old_events_jobs_and_deleted_sessions_are_removed_and_nothing_else(self, registry: Registry) -> None:
        deleted = SessionState.DELETED
        old = self.session(registry, "old", at=1, state=deleted)
        trashed = self.session(registry, "trashed", at=1, state=deleted, kept_until=500.0)
        recent = self.session(registry, "recent", at=1, state=deleted)
        live = self.session(registry, "live", at=1, state=SessionState.READY, ended_at=2.0)
        for submission, ended_at in ((2, 90.0), (3, 120.0), (4, None)):
            registry.update(live.id, lambda _, number=submission: ({"submission": number, "submissions": number}, None))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            registry.update(live.id, lambda _, end=ended_at: JobChange({}, None, job={"ended_at": end}))  # type: ignore[misc]  # as above
        self.now = 150.0
        registry.record(recent, EventEntry("berth", "purged"))
        removed = [registry.remove_history(100.0)]
        while any(removed[-1]):
            removed.append(registry.remove_history(100.0))
        assert [sum(each) for each in zip(*removed, strict=True)] == [4, 2, 1]
        assert registry.get(old.id) is None
        assert all(registry.get(each.id) is not None for each in (trashed, recent, live))
        assert [job.submission for job in registry.jobs_of(live.id)] == [3, 4]
        assert [event.action for event in registry.events_of("alice")] == ["purged"]

    def test_present_job_and_successor_stay_whatever_their_age(self, registry: Registry) -> None:
        session = self.session(registry, "dev", at=1, state=SessionState.STOPPED, ended_at=2.0, submissions=2)
        registry.update(session.id, lambda _: JobChange({"successor": 2}, None, next_job={"asked_at": 1.0}))
        assert registry.remove_history(100.0).jobs == 0
        current = registry.require(session.id)
        assert (current.job.ended_at, current.next_job is not None) == (2.0, True)

    def test_one_transaction_removes_a_bounded_number(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history_rows, "MAX_ROWS_AT_ONCE", 3)
        for number in range(7):
            self.session(registry, f"s{number}", at=number, state=SessionState.DELETED)
        removed = [registry.remove_history(100.0) for _ in range(5)]
        assert [each.events for each in removed] == [3, 3, 1, 0, 0]
        assert sum(each.sessions for each in removed) == 7
        assert removed[-1] == RemovedHistory(0, 0, 0)


def test_full_pool_of_connections_is_an_error_in_words(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = functools.partial(sqlalchemy.create_engine, pool_size=1, max_overflow=0, pool_timeout=0.05)
    monkeypatch.setattr(database, "_create_engine", small)
    with contextlib.closing(open_registry(url)) as registry:
        failures: list[BerthError] = []

        def ask() -> None:
            try:
                registry.find("alice", "dev")
            except BerthError as error:
                failures.append(error)

        with registry.transaction() as db:
            db.connection()
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
        assert isinstance(failures[0], RegistryError)
        assert "all connections to its database are in use" in failures[0].message
        ask()
        assert len(failures) == 1
