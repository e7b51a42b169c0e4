"""Grants in SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from broker.controller.registry.connection_model import Connection
from broker.controller.registry.database import open_registry
from broker.controller.registry.registry import EventEntry, Registry
from broker.names import new_id
from broker.schema.sessions import SessionState
from tests.fakes.rows import make_session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.controller.registry.models import Session
    from tests.postgresql import PostgreSQL

START = EventEntry("alice", "start")
BOB = {"grantee": "bob", "role": "operate", "until": None, "granted_at": 1.0}


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'registry.db'}"
    else:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        url = server.url
    with contextlib.closing(open_registry(url)) as made:
        yield made


def test_grants_survive_the_round_trip(registry: Registry) -> None:
    row = registry.create(make_session(), START)
    assert row.grants == []
    changed = registry.update(row.id, lambda _: ({"grants": [BOB]}, None))
    assert changed.revision == row.revision + 1, "a call that waits for the session is woken"
    found = registry.find("alice", "dev")
    assert found is not None
    assert [grant.grantee for grant in found.active_grants(2.0)] == ["bob"]
    assert registry.update(row.id, lambda _: ({"grants": [BOB]}, None)).revision == changed.revision


def test_shared_sessions_are_found_in_order_and_without_deleted_ones(registry: Registry) -> None:
    for owner, name, grants in (
        ("carol", "dev", [BOB]),
        ("alice", "thesis", [BOB]),
        ("alice", "dev", [BOB]),
        ("alice", "private", []),
    ):
        registry.create(make_session(owner, name, grants=grants), START)
    assert [(row.owner, row.name) for row in registry.shared_sessions()] == [
        ("alice", "dev"),
        ("alice", "thesis"),
        ("carol", "dev"),
    ]
    gone = registry.find("alice", "thesis")
    assert gone is not None
    registry.update(gone.id, lambda _: ({"state": SessionState.DELETED}, None))
    last = registry.find("carol", "dev")
    assert last is not None
    registry.update(last.id, lambda _: ({"grants": []}, None))
    assert [(row.owner, row.name) for row in registry.shared_sessions()] == [("alice", "dev")]


def test_sessions_with_guests_have_grants_or_a_connection_of_another_user(registry: Registry) -> None:
    rows = {}
    for name, grants in (("shared", [BOB]), ("revoked", []), ("left", []), ("own", []), ("unused", []), ("gone", [])):
        rows[name] = registry.create(make_session("alice", name, grants=grants), START)
    for name, user, ended_at in (("revoked", "bob", None), ("left", "bob", 2.0), ("own", "alice", None)):
        registry.note_connections([connection(rows[name], user, ended_at)])
    registry.note_connections([connection(rows["gone"], "bob", None)])
    registry.update(rows["gone"].id, lambda _: ({"state": SessionState.DELETED}, None))
    assert [row.name for row in registry.sessions_with_guests()] == ["revoked", "shared"]


def connection(session: Session, user: str, ended_at: float | None) -> Connection:
    return Connection(
        id=new_id(),
        session_id=session.id,
        session=session.name,
        owner=session.owner,
        user=user,
        fingerprint="",
        peer="",
        gateway="g",
        generation=session.generation,
        began_at=1.0,
        seen_at=1.0,
        ended_at=ended_at,
        sent=0,
        received=0,
        end="",
    )
