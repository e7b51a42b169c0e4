"""The present and former connections of a session: the registry's records, and the answers about them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.open_connections import MAX_CLIENTS
from broker.controller.sessions.connections import MAX_OWN_OPEN, MAX_OWN_RECORDS, MAX_OWN_REPORT, TRIM_AFTER
from broker.errors import InvalidInputError, NotFoundError, RefusedError
from broker.names import new_id
from broker.schema.connections import CONNECTION_TIMEOUT_S, ConnectionRecord, ConnectionReport
from slurm.state import JobState
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

KEY = "SHA256:" + "A" * 43


def play(place: Path, scene: Callable[[Core], Awaitable[None]], **registry: object) -> None:
    async def whole() -> None:
        core = Core.make(site_config(place, registry=registry), FakeLauncher(FakeScheduler()))
        async with asyncio.timeout(TEST_DEADLINE_S):
            await scene(core)

    asyncio.run(whole())


def record(core: Core, clock: Clock, **values: Any) -> ConnectionRecord:  # noqa: ANN401 - fields of several types
    """Return an open connection of alice's to dev from a laptop, unless `values` say otherwise."""
    session = core.row()
    usual: dict[str, Any] = {
        "id": new_id(),
        "user": "alice",
        "fingerprint": KEY,
        "peer": "192.0.2.7:5022",
        "session_id": session.id,
        "generation": session.generation,
        "began_at": clock.now,
    }
    return ConnectionRecord(**usual | values)


async def report(core: Core, *records: ConnectionRecord, caller: str | None = None) -> int:
    return await core.connections.note(ConnectionReport(gateway="gw1", connections=list(records)), caller)


def test_one_stands_until_its_gateway_says_how_it_ended(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        begun = record(core, clock)
        assert await report(core, begun) == 1
        (view,) = await core.connections.open_connections("alice", "dev")
        assert (view.user, view.fingerprint, view.peer, view.gateway) == ("alice", KEY, "192.0.2.7:5022", "gw1")
        assert (view.session, view.ended_at, view.end) == ("dev", None, "")
        clock.now += 90
        ended = begun.model_copy(update={"ended_at": clock.now, "sent": 5, "received": 2**40, "end": "closed"})
        for news in (ended, begun, ended):  # again, and out of order
            assert await report(core, news) == 1
        assert await core.connections.open_connections("alice", "dev") == []
        (view,) = await core.connections.all("alice", "dev")
        assert (view.sent, view.received, view.end, view.ended_at) == (5, 2**40, "closed", clock.now)

    play(tmp_path, scene)


def test_it_is_an_event_of_the_session(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        clock.now += 60
        done = record(core, clock, ended_at=clock.now + 7500, sent=2048, received=10, end="client lost")
        await report(core, done)
        event = (await core.sessions.events("alice", "dev"))[-1]
        assert (event.actor, event.action, event.at) == ("alice", "connect", done.began_at)
        assert event.detail == (
            f"from 192.0.2.7:5022, through gw1, with {KEY}, for 2 h 5 min, 2.0 KiB sent, 10 B received, client lost"
        )
        assert (await core.sessions.events("alice"))[-1] == event
        without = await core.sessions.events("alice", "dev", connections=False)
        assert "connect" not in {each.action for each in without}

    play(tmp_path, scene)


def test_who_is_not_heard_of_any_more_is_lost(tmp_path: Path, clock: Clock) -> None:
    """A gateway that was killed says nothing of how its connections ended."""

    async def scene(core: Core) -> None:
        await core.ready()
        begun = record(core, clock)
        await report(core, begun)
        clock.now += CONNECTION_TIMEOUT_S - 1
        assert len(await core.connections.open_connections("alice", "dev")) == 1
        await report(core, begun.model_copy(update={"sent": 9}))
        clock.now += CONNECTION_TIMEOUT_S - 1
        assert [view.sent for view in await core.connections.open_connections("alice", "dev")] == [9]
        clock.now += 2
        assert await core.connections.open_connections("alice", "dev") == []
        (view,) = await core.connections.all("alice", "dev")
        assert (view.end, view.ended_at) == ("lost", view.seen_at)
        await report(core, begun)
        assert len(await core.connections.open_connections("alice", "dev")) == 1, "it was only the news that was late"

    play(tmp_path, scene)


def test_nobody_is_connected_to_a_job_that_is_gone(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        await report(core, record(core, clock), caller="alice")
        assert len(await core.connections.open_connections("alice", "dev")) == 1
        clock.now += CONNECTION_TIMEOUT_S - 1
        assert len(await core.connections.open_connections("alice", "dev")) == 1
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id, JobState.TIMEOUT)
        await core.tick()
        assert await core.connections.open_connections("alice", "dev") == []
        await core.start()
        await core.ready()
        assert await core.connections.open_connections("alice", "dev") == [], "this is another job"

    play(tmp_path, scene)


def test_users_tell_of_their_own_connections_only(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        mine = record(core, clock)
        for caller, lie in (("alice", {"user": "bob"}), ("bob", {}), ("bob", {"user": "bob"})):
            with pytest.raises(RefusedError):
                await report(core, mine, mine.model_copy(update=lie), caller=caller)
        assert await core.connections.all("alice") == []
        await report(core, mine, caller="alice")
        assert [view.gateway for view in await core.connections.all("alice")] == [""], "no user is a gateway"

    play(tmp_path, scene)


def test_a_users_own_record_is_lost_without_news(tmp_path: Path, clock: Clock) -> None:
    """`berth connect` tells every minute, as gateways do; one that was killed does not stand for ever."""

    async def scene(core: Core) -> None:
        await core.ready()
        await report(core, record(core, clock), caller="alice")
        clock.now += CONNECTION_TIMEOUT_S + 1
        assert await core.connections.open_connections("alice", "dev") == []
        assert [view.end for view in await core.connections.all("alice", "dev")] == ["lost"]

    play(tmp_path, scene)


@pytest.mark.parametrize(
    "change",
    [
        {"user": "bob", "session_id": "bob's"},
        {"session_id": "two"},
        {"generation": "2.0"},
        {"peer": "192.0.2.9:1"},
        {"fingerprint": "SHA256:" + "B" * 43},
    ],
    ids=", ".join,
)
def test_a_known_record_is_taken_over_by_nobody(tmp_path: Path, clock: Clock, change: dict[str, str]) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        await core.ready("two")
        await core.ready("mine", user="bob")
        ids = {"bob's": core.row("mine", user="bob").id, "two": core.row("two").id}
        begun = record(core, clock, sent=5)
        await report(core, begun)
        lie = begun.model_copy(update={**change, "sent": 9, "ended_at": clock.now, "end": "closed"})
        if "session_id" in change:
            lie = lie.model_copy(update={"session_id": ids[change["session_id"]]})
        with pytest.raises(RefusedError):
            await report(core, lie, caller=lie.user)
        assert await report(core, lie) == 0, "nor by its own gateway"
        assert await core.connections.note(ConnectionReport(gateway="gw2", connections=[begun]), None) == 0
        with pytest.raises(RefusedError):
            await report(core, begun.model_copy(update={"sent": 7}), caller="alice")
        (view,) = await core.connections.open_connections("alice", "dev")
        assert (view.user, view.sent, view.gateway, view.peer) == ("alice", 5, "gw1", begun.peer)
        assert await core.connections.all("bob") == []
        assert await report(core, lie, record(core, clock)) == 1, "the others of its report count"

    play(tmp_path, scene)


def test_a_users_own_records_have_a_bound(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        gateways = [record(core, clock, ended_at=clock.now) for _ in range(3)]
        await report(core, *gateways)
        with pytest.raises(InvalidInputError, match="50"):
            await report(core, *(record(core, clock) for _ in range(MAX_OWN_REPORT + 1)), caller="alice")
        noted = 0
        while noted + MAX_OWN_REPORT <= MAX_OWN_OPEN:
            noted += await report(core, *(record(core, clock) for _ in range(MAX_OWN_REPORT)), caller="alice")
        with pytest.raises(RefusedError, match="256"):
            await report(core, *(record(core, clock) for _ in range(MAX_OWN_REPORT)), caller="alice")
        clock.now += CONNECTION_TIMEOUT_S + 1
        assert await report(core, record(core, clock), caller="alice") == 1, "those that were lost do not count"
        for _ in range(MAX_OWN_RECORDS // MAX_OWN_REPORT + 10):
            await report(
                core, *(record(core, clock, ended_at=clock.now) for _ in range(MAX_OWN_REPORT)), caller="alice"
            )
        rows = core.registry.connections_of("alice", limit=100_000)
        assert (
            MAX_OWN_RECORDS - MAX_OWN_REPORT < sum(not row.gateway for row in rows) <= MAX_OWN_RECORDS + MAX_OWN_REPORT
        )
        assert {each.id for each in gateways} <= {row.id for row in rows}, "they displace no record of a gateway"

    play(tmp_path, scene)


def test_an_owners_records_have_a_bound_and_others_keep_theirs(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        await core.ready("mine", user="bob")
        bobs = record(core, clock, user="bob", session_id=core.row("mine", user="bob").id)
        await report(core, bobs)
        for _ in range(8):
            clock.now += 1
            await report(core, *(record(core, clock, ended_at=clock.now) for _ in range(400)))
        rows = core.registry.connections_of("alice", limit=100_000)
        assert 1000 <= len(rows) < 1000 + TRIM_AFTER + 400
        assert rows[-1].began_at == clock.now
        assert len(core.registry.connections_of("bob")) == 1

    play(tmp_path, scene, connection_records=1000)


def test_others_learn_nothing_of_it(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        await report(core, record(core, clock))
        for asked in (core.connections.open_connections("bob", "dev"), core.connections.all("bob", "dev")):
            with pytest.raises(NotFoundError):
                await asked
        assert await core.connections.all("bob") == []

    play(tmp_path, scene)


def test_a_session_that_nobody_knows_is_left_out(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        assert await report(core, record(core, clock), record(core, clock, session_id="01gone")) == 1

    play(tmp_path, scene)


def test_records_are_kept_for_so_many_days(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        await report(core, record(core, clock))
        clock.now += 1.9 * 86400
        assert len(await core.connections.all("alice")) == 1
        clock.now += 0.2 * 86400
        assert await core.connections.all("alice") == []
        await report(core, record(core, clock))
        rows = core.registry.connections_of("alice")
        assert [row.began_at for row in rows] == [clock.now], "the old one is not in the database any more"

    play(tmp_path, scene, connection_days=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "x"},
        {"user": "Alice Smith"},
        {"fingerprint": "MD5:0"},
        {"peer": "a b"},
        {"session_id": "x" * 27},
        {"sent": -1},
        {"received": 2**63},
        {"began_at": float("nan")},
        {"began_at": float("inf")},
        {"ended_at": -1.0},
        {"end": "x" * 41},
        {"other": 1},
    ],
)
def test_what_is_no_record_is_refused_at_the_edge(wrong: dict[str, object]) -> None:
    right = {"id": new_id(), "user": "alice", "session_id": "01", "generation": "1.0", "began_at": 1.0}
    ConnectionRecord.model_validate(right)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConnectionRecord.model_validate(right | wrong)


def test_open_terminals_are_those_of_the_present_job(tmp_path: Path) -> None:
    """A terminal of `berth ssh` is no connection that Berth knows; the session's job counts it."""

    async def scene(core: Core) -> None:
        session = await core.ready()
        assert await core.connections.terminals("alice", "dev") == 0
        files = core.launcher.directories["alice", session.id].files
        for text, count in [(f"{session.generation} 2\n", 2), ("9.0 2\n", 0), (f"{session.generation} -1\n", 0)]:
            files["terminals"] = text
            assert await core.connections.terminals("alice", "dev") == count, text
        core.launcher.failures["terminals"] = LauncherError("files", "no such disk")
        assert await core.connections.terminals("alice", "dev") is None
        core.launcher.failures.clear()
        await core.sessions.stop("alice", "dev")
        assert await core.connections.terminals("alice", "dev") == 0

    play(tmp_path, scene)


def test_view_of_a_session_has_the_addresses_of_its_clients(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()

        async def clients() -> list[str]:
            return (await core.sessions.show("alice", "dev")).clients

        first, second = (record(core, clock, id=new_id(), peer=peer) for peer in ("10.0.0.7:4022", "fe80::1%eth0:22"))
        assert await clients() == []
        await report(core, first)
        await report(core, second, record(core, clock, id=new_id(), peer="10.0.0.7:4023"))
        assert await clients() == ["10.0.0.7", "fe80::1%eth0"]
        await report(core, first.model_copy(update={"ended_at": clock.now, "end": "closed"}))
        assert await clients() == ["10.0.0.7", "fe80::1%eth0"], "another connection comes from there"
        clock.now += CONNECTION_TIMEOUT_S - 1
        await report(core, second)
        clock.now += 2
        await core.tick()
        assert await clients() == ["fe80::1%eth0"]
        await report(core, *(record(core, clock, id=new_id(), peer=f"10.0.1.{n}:22") for n in range(MAX_CLIENTS)))
        assert len(await clients()) == MAX_CLIENTS
        await core.sessions.stop("alice", "dev")
        for _ in range(3):
            await core.tick()
        assert await clients() == []

    play(tmp_path, scene)


def test_followers_of_a_session_learn_when_its_clients_change(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        noted: list[str | None] = []
        core.changes.watch("alice", noted.append)
        begun = record(core, clock, id=new_id())
        for records, notifications in (
            ([begun], 1),
            ([begun], 1),
            ([record(core, clock, id=new_id())], 1),
            ([begun.model_copy(update={"ended_at": clock.now, "end": "closed"})], 1),
        ):
            await report(core, *records)
            assert len(noted) == notifications
        clock.now += CONNECTION_TIMEOUT_S
        await core.reconciler.tick()
        assert len(noted) == 2
        assert set(noted) == {core.row().id}

    play(tmp_path, scene)
