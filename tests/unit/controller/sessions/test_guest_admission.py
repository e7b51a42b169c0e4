"""Admissions of guests while access ends, and after a controller has been replaced."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.cluster import groups as groups_module
from broker.controller.credentials.login import LoginPolicy
from broker.controller.sessions.access import SessionAccess
from broker.controller.sessions.guests import GuestEnd
from broker.errors import ConflictError, RefusedError
from broker.names import new_id
from broker.schema.connections import ConnectionRecord, ConnectionReport
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Clock, Core
from tests.unit.controller.sessions.test_guests import (
    WATCH,
    connect,
    core_with_keys,
    file,
    leases,
    review,
    stop,
    stub_groups,
    unshare,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from broker.controller.credentials.login import SshCredentials
    from broker.controller.registry.grant import SessionGrant


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Core:
    stub_groups(monkeypatch)
    return core_with_keys(tmp_path)


@pytest.mark.parametrize("cause", [unshare, stop])
def test_guest_whose_access_ends_while_the_keys_are_read_stays_out(
    core: Core, cause: Callable[[Core], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = LoginPolicy.of

    async def read(self: LoginPolicy, user: str) -> SshCredentials:
        login = await of(self, user)
        if user == "bob":
            await cause(core)
        return login

    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        monkeypatch.setattr(LoginPolicy, "of", read)
        with pytest.raises((RefusedError, ConflictError)):
            await connect(core)
        assert not core.guests.is_admitted(session.id, "bob")
        assert leases(core, session) == []

    asyncio.run(scenario())


def test_revocation_waits_for_an_admission_under_way(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    entry_grant = SessionAccess.entry_grant
    checked, proceed = asyncio.Event(), asyncio.Event()

    async def check(self: SessionAccess, *words: Any) -> SessionGrant | None:  # noqa: ANN401 - passed on
        grant = await entry_grant(self, *words)
        checked.set()
        await proceed.wait()
        return grant

    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        monkeypatch.setattr(SessionAccess, "entry_grant", check)
        admission = asyncio.create_task(connect(core))
        await asyncio.wait_for(checked.wait(), DEADLINE_S)
        core.registry.update(session.id, lambda _: ({"grants": []}, None))
        revocation = asyncio.create_task(core.guests.apply(session.id))
        await asyncio.wait({revocation}, timeout=0.1)
        assert not revocation.done()
        proceed.set()
        assert await revocation
        assert await admission == "watch"
        assert leases(core, session) == []

    asyncio.run(scenario())


def test_guest_who_is_in_already_costs_no_write(core: Core) -> None:
    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        await connect(core)
        number = file(core, session, "guests")[0]
        await asyncio.gather(*(connect(core) for _ in range(20)))
        assert file(core, session, "guests")[0] == number
        core.registry.update(session.id, lambda row: ({"grants": [each | {"until": 4e9} for each in row.grants]}, None))
        await connect(core)
        assert "expiry-time" in file(core, session, "guest_keys")[0], "a change is written"

    asyncio.run(scenario())


def test_next_controller_knows_the_guests_of_the_last_one(core: Core, clock: Clock) -> None:
    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        await core.shares.share("alice", "dev", "carol", WATCH)
        await connect(core)
        record = ConnectionRecord(
            id=new_id(), user="bob", session_id=session.id, generation=session.generation, began_at=clock.now
        )
        assert await core.connections.note(ConnectionReport(connections=[record]), "bob") == 1
        await core.kill()
        successor = Core.make(core.config, core.launcher)
        running = asyncio.create_task(successor.guests.run())
        await asyncio.wait_for(successor.guests.wait_recovered(asyncio.Event()), DEADLINE_S)
        assert successor.guests.is_admitted(session.id, "bob")
        assert not successor.guests.is_admitted(session.id, "carol")
        await successor.guests.apply(session.id)
        assert leases(successor, session) == ["watch bob"], "the lease of carol, who has left, is taken back"
        await successor.shares.unshare("alice", "dev", "bob")
        assert leases(successor, session) == []
        running.cancel()
        await successor.guests.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["review", "apply"])
def test_next_controller_takes_back_the_lease_of_the_last_grant(core: Core, clock: Clock, way: str) -> None:
    """The controller dies after it has removed the only grant, and before it has written the lease."""

    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        await connect(core)
        record = ConnectionRecord(
            id=new_id(), user="bob", session_id=session.id, generation=session.generation, began_at=clock.now
        )
        await core.connections.note(ConnectionReport(connections=[record]), "bob")
        core.registry.update(session.id, lambda _: ({"grants": []}, None))
        await core.kill()
        assert leases(core, session) == ["watch bob"]
        successor = Core.make(core.config, core.launcher)
        if way == "apply":
            assert await successor.guests.apply(session.id)
        else:
            await successor.guests._recover()
            await review(successor)
        assert leases(successor, session) == []
        assert not successor.guests.is_admitted(session.id, "bob")
        await successor.guests.close()

    asyncio.run(scenario())


def test_name_service_that_does_not_answer_ends_no_access(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_module, "ACCOUNT_PATIENCE_S", 0.05)
    answer = threading.Event()

    def hang(_: str) -> bool:
        answer.wait(DEADLINE_S)
        return False

    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        await connect(core)
        monkeypatch.setattr(groups_module, "_has_account", hang)
        await review(core)
        assert leases(core, session) == ["watch bob"]
        answer.set()
        await review(core)
        assert leases(core, session) == []
        events = [(each.action, each.detail) for each in await core.sessions.events("alice", "dev")]
        assert events[-1] == ("guest-out", f"bob: {GuestEnd.ACCOUNT_GONE}")

    asyncio.run(scenario())
