"""The gateway's records of its connections, with real ssh through it."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

import pytest

from broker.controller.registry.transactions import RegistryError
from broker.errors import InvalidInputError
from broker.gateway import audit
from broker.gateway.audit import ClientIdentity, ConnectionAudit
from broker.gateway.counters import Counters
from broker.gateway.relay import Relay
from broker.gateway.usage import Allowance, Resource, Usage
from broker.schema.connections import ConnectionReport, ResolveAnswer
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.gateway_process import gateway_process
from tests.fakes.gateway_world import World, play, until, world
from tests.fakes.openssh import me

if TYPE_CHECKING:
    from pathlib import Path

    from broker.schema.connections import ConnectionRecord

ANSWER = ResolveAnswer(
    session_id="01session", owner="alice", name="dev", generation="1.0", host="c1", port=22, fingerprint="SHA256:x"
)
ALICE = ClientIdentity("alice", "SHA256:" + "A" * 43)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "GATHER_S", 0.01)
    monkeypatch.setattr(audit, "RETRY_S", 0.05)
    monkeypatch.setattr(audit, "REPORT_INTERVAL_S", 0.1)


def only(w: World) -> ConnectionRecord:
    (record,) = w.controller.connections.values()
    return record


def test_the_controller_hears_of_it_when_it_begins_while_it_stands_and_when_it_ends(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as client:
            reader, writer = await client.open_connection(w.canonical, 22)
            await until(lambda: w.controller.connections)
            begun = only(w)
            assert (begun.user, begun.session_id, begun.generation) == (me(), "01session", "1.0")
            assert begun.fingerprint.startswith("SHA256:")
            assert begun.peer.startswith("127.0.0.1:")
            assert begun.ended_at is None
            assert await reader.readline()
            writer.write(b"SSH-2.0-nobody\r\n")
            await until(lambda: only(w).sent == 16)
            assert only(w).received > 10
            assert only(w).ended_at is None
        await until(lambda: only(w).end)
        assert only(w).end == "closed"
        assert (only(w).ended_at or 0) >= begun.began_at
        assert w.controller.gateways == {w.settings.name}

    play(place, scene)


@pytest.mark.parametrize("how", ["away", "failing"])
def test_what_a_controller_does_not_take_is_told_again(place: Path, how: str) -> None:
    async def scene(w: World) -> None:
        assert (await w.ssh("dev.berth", "true")).code == 0  # the endpoint is remembered from here on
        await until(lambda: w.controller.connections and only(w).end)
        w.controller.connections.clear()
        if how == "away":
            await w.controller.stop()
        else:
            w.controller.refuses = RegistryError("the disk is full")
        asked = len(w.controller.asked)
        for _ in range(3):
            assert (await w.ssh("dev.berth", "true")).code == 0
        if how == "away":
            await w.controller.start()
        else:
            await until(lambda: w.controller.asked[asked:].count("POST /v1/connections") > 3)
            w.controller.refuses = None
        await until(lambda: [each.end for each in w.controller.connections.values()] == ["closed"] * 3)

    play(place, scene)


def test_what_a_controller_refuses_is_not_told_for_ever(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(w: World) -> None:
        w.controller.refuses = InvalidInputError("no such field")
        assert (await w.ssh("dev.berth", "true")).code == 0
        await until(lambda: "refuses 1 records of connections: no such field" in caplog.text)
        w.controller.refuses = None
        w.controller.connections.clear()
        assert (await w.ssh("dev.berth", "true")).code == 0
        await until(lambda: "closed" in {each.end for each in w.controller.connections.values()})

    play(place, scene)


def test_a_gateway_that_is_stopped_says_so_of_what_stood(place: Path) -> None:
    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S), world(place) as w, gateway_process(w, workers=2) as process:
            async with await process.client() as client:
                await client.open_connection(w.canonical, 22)
                process.signal(signal.SIGTERM)
                process.signal(signal.SIGTERM)
                await process.ends()
            assert only(w).end in {"gateway stopped", "closed"}
            assert only(w).ended_at is not None

    asyncio.run(whole())


def test_there_is_an_end_to_what_waits(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "broker")
    monkeypatch.setattr(audit, "MAX_PENDING_RECORDS", 3)
    monkeypatch.setattr(audit, "MAX_BATCH_RECORDS", 2)
    monkeypatch.setattr(audit, "REPORT_INTERVAL_S", 60)
    reports: list[ConnectionReport] = []
    up = asyncio.Event()

    async def tell(report: ConnectionReport) -> None:
        await up.wait()
        reports.append(report)

    async def scene() -> None:
        async with ConnectionAudit(tell, "gw1", Counters()) as audited:
            allowance = Allowance(Usage(), "alice", Resource.WINDOW_BYTES, 0)
            relays = [Relay(lambda *_: None, lambda _: None, allowance) for _ in range(5)]
            for relay in relays:
                audited.record_begin(relay, ALICE, "192.0.2.7:1", ANSWER)
            for relay in relays:
                audited.record_end(relay, "closed")
            audited.record_end(relays[0], "closed")  # a second time nothing happens
            up.set()
            await until(lambda: not audited._due)

    asyncio.run(scene())
    assert caplog.text.count("event=forward") == 5, "the log has them all"
    assert caplog.text.count(" to=c1:22 session=01session ") == 5
    assert caplog.text.count("in this log only") == 1
    records = {each.id: each for report in reports for each in report.connections}
    assert [each.end for each in records.values()] == ["closed"] * 3
    assert all(len(report.connections) <= 2 for report in reports)
