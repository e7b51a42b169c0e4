"""Logins of browsers and their visits, in SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from broker.controller.registry.database import open_registry
from broker.controller.registry.registry import EventEntry, Registry
from broker.controller.registry.web_models import Delegation, Visit
from broker.errors import TooManyError
from broker.names import new_id
from broker.schema.sessions import SessionState
from tests.fakes.rows import make_session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgresql import PostgreSQL

MOST = 3


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'registry.db'}"
    else:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        url = server.url
    with contextlib.closing(open_registry(url)) as made:
        yield made


def delegation(user: str = "alice", expires_at: float = 100.0) -> Delegation:
    return Delegation(
        id=new_id(),
        secret_hash=new_id(),
        user=user,
        uid=4001,
        browser="Firefox",
        address="192.0.2.1",
        created_at=1.0,
        used_at=1.0,
        expires_at=expires_at,
    )


def visit(login: Delegation, session_id: str, service: str = "jupyter") -> Visit:
    return Visit(
        id=new_id(),
        secret_hash=new_id(),
        delegation_id=login.id,
        user=login.user,
        session_id=session_id,
        service=service,
        created_at=1.0,
        expires_at=login.expires_at,
    )


def test_logins_and_visits_end_together(registry: Registry) -> None:
    session = registry.create(make_session(), EventEntry("alice", "start"))
    first, other = delegation(), delegation("bob")
    for each in (first, other):
        registry.add_delegation(each, MOST)
    opened, kept = visit(first, session.id), visit(other, session.id)
    assert registry.add_visit(opened, MOST) == []
    assert registry.add_visit(kept, MOST) == []
    valid = registry.valid_visits([opened.id, kept.id, new_id()], 99.0)
    assert sorted(valid) == sorted([opened.id, kept.id])
    assert registry.valid_visits([opened.id], 100.0) == []
    assert registry.visited_services("alice") == [(session.id, "jupyter")]
    registry.note_delegation_use(first.id, 50.0)
    assert [each.used_at for each in registry.delegations_of("alice", 60.0)] == [50.0]
    assert registry.end_delegations("alice", other.id) == []
    assert [each.id for each in registry.end_delegations("alice")] == [first.id]
    assert registry.find_visit(opened.secret_hash, 2.0) is None
    assert registry.add_visit(visit(first, session.id), MOST) is None
    assert registry.forget_delegations(99.0) == 0
    assert registry.forget_delegations(100.0) == 1
    assert registry.visited_sessions() == []


def test_visits_end_with_the_session(registry: Registry) -> None:
    running = registry.create(make_session(name="running"), EventEntry("alice", "start"))
    stopped = registry.create(make_session(name="stopped", state=SessionState.STOPPED), EventEntry("alice", "start"))
    login = delegation()
    registry.add_delegation(login, MOST)
    visits = [visit(login, session_id) for session_id in (running.id, stopped.id, new_id())]
    for each in visits:
        assert registry.add_visit(each, MOST) == []
    assert sorted(registry.end_visits({SessionState.STOPPED})) == sorted(each.id for each in visits[1:])
    assert registry.end_visits({SessionState.STOPPED}) == []
    assert registry.visited_sessions() == [running.id]


def test_numbers_are_limited(registry: Registry) -> None:
    session = registry.create(make_session(), EventEntry("alice", "start"))
    logins = [delegation(expires_at=10.0 * number + 1.0) for number in range(MOST + 1)]
    for each in logins:  # the first one has expired
        registry.add_delegation(each, MOST)
    with pytest.raises(TooManyError):
        registry.add_delegation(delegation(), MOST)
    login = logins[-1]
    for number in range(MOST):
        assert registry.add_visit(visit(login, session.id, f"web{number}"), MOST) == []
    with pytest.raises(TooManyError):
        registry.add_visit(visit(login, session.id), MOST)
    late = visit(logins[1], session.id)
    with pytest.raises(TooManyError):
        registry.add_visit(late, MOST)
    late.created_at = login.expires_at  # the others have expired
    assert registry.add_visit(late, MOST) == []


def test_visit_replaces_the_one_of_the_same_browser_and_service(registry: Registry) -> None:
    sessions = [registry.create(make_session(name=name), EventEntry("alice", "start")) for name in ("one", "two")]
    first, other = delegation(), delegation()
    for each in (first, other):
        registry.add_delegation(each, MOST)
    old = visit(first, sessions[0].id)
    kept = [visit(other, sessions[0].id), visit(first, sessions[1].id), visit(first, sessions[0].id, "terminal")]
    for each_visit in (old, *kept):
        assert registry.add_visit(each_visit, 4) == []
    new = visit(first, sessions[0].id)
    assert registry.add_visit(new, 4) == [old.id]
    ids = [each.id for each in (old, *kept, new)]
    assert set(registry.valid_visits(ids, 2.0)) == set(ids[1:])


def test_visits_of_guests_are_found_by_their_session_and_removed(registry: Registry) -> None:
    own, shared = (registry.create(make_session(each), EventEntry(each, "start")) for each in ("alice", "bob"))
    alice, bob = delegation(), delegation("bob")
    for login in (alice, bob):
        registry.add_delegation(login, MOST)
    visits = [visit(alice, own.id), visit(bob, own.id), visit(bob, shared.id), visit(alice, shared.id)]
    ids = [each.id for each in visits]
    for each in visits:
        registry.add_visit(each, MOST)
    assert {each.id for each in registry.guest_visits()} == {ids[1], ids[3]}
    assert [each.id for each in registry.guest_visits(own.id)] == [ids[1]]
    registry.remove_visits([ids[1]])
    assert set(registry.valid_visits(ids, 2.0)) == {ids[0], ids[2], ids[3]}
    assert [each.id for each in registry.guest_visits()] == [ids[3]]
