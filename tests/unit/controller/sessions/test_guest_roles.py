"""Guests of several roles: the strongest counts, a change ends the connection, and the owner sees who has left."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from broker.controller.credentials.guests import ROLE_PROGRAMS
from broker.controller.sessions import guests
from broker.schema.grants import Role, ShareRequest
from tests.deadlines import DEADLINE_S
from tests.unit.controller.sessions.test_guests import (
    PROGRAMS,
    WATCH,
    Worker,
    connect,
    core_with_keys,
    file,
    leases,
    review,
    stub_groups,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.core import Clock, Core


@pytest.fixture(autouse=True)
def _members(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_groups(monkeypatch)


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return core_with_keys(tmp_path)


@pytest.mark.parametrize(("role", "other"), list(itertools.permutations(PROGRAMS, 2)))
def test_another_role_ends_the_connection_and_the_next_one_has_it(core: Core, role: str, other: str) -> None:
    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", ShareRequest(role=role))
        assert await connect(core) == role
        worker = Worker(core, (session.id, "bob"))
        await asyncio.sleep(0)
        await core.shares.share("alice", "dev", "bob", ShareRequest(role=other))
        assert not worker.guests, "acknowledged before the gateway has cut"
        assert leases(core, session) == []
        assert await connect(core) == other
        assert leases(core, session) == [f"{other} bob"]
        assert f" {ROLE_PROGRAMS[Role(other)]} bob" in file(core, session, "guest_keys")[0]
        await asyncio.wait_for(worker.task, DEADLINE_S)
        details = [event.detail for event in await core.sessions.events("alice", "dev") if "guest-" in event.action]
        assert details == [f"as {role}", f"bob: the role is {other} now", f"as {other}"]

    asyncio.run(scenario())


def test_the_strongest_role_counts_and_the_weaker_one_remains(core: Core) -> None:
    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        await core.shares.share("alice", "dev", "@devs", ShareRequest(role="use"))
        assert await connect(core) == "use"
        await core.shares.unshare("alice", "dev", "@devs")
        assert leases(core, session) == []
        assert await connect(core) == "watch"

    asyncio.run(scenario())


def test_owner_sees_when_a_guest_has_left(core: Core, clock: Clock) -> None:
    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="use"))
        await connect(core)
        worker = Worker(core, (session.id, "bob"))
        await asyncio.sleep(0)
        await review(core)
        worker.task.cancel()
        await core.guests.connections.report(worker.id, 99, [], 0)
        clock.now += guests.LEFT_S - 1
        await review(core)
        assert leases(core, session) == ["use bob"], "a client that connects again keeps the lease"
        clock.now += 2
        await review(core)
        assert leases(core, session) == []
        events = [(event.actor, event.action, event.detail) for event in await core.sessions.events("alice", "dev")]
        assert events[-2:] == [("bob", "guest-in", "as use"), ("berth", "guest-out", "bob: has left")]

    asyncio.run(scenario())
