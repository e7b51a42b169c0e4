"""The gateway's metrics for Prometheus: of all workers together, over reloads and the death of some."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import urllib.error
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from broker.gateway.counters import Counters
from broker.gateway.metrics import MetricsTotals
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.gateway_process import GatewayProcess, free_port, gateway_process
from tests.fakes.gateway_world import World, until, world
from tests.fakes.openssh import make_key
from tests.fakes.scrape import Samples, scrape

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def play(place: Path, scene: Callable[[World, GatewayProcess, int], Awaitable[None]], **gateway: Any) -> None:  # noqa: ANN401 - settings
    port = free_port()

    async def whole() -> None:
        settings: dict[str, Any] = {"workers": 2, "metrics_listen": f"127.0.0.1:{port}"}
        async with (
            asyncio.timeout(TEST_DEADLINE_S),
            world(place) as w,
            gateway_process(w, **settings | gateway) as process,
        ):
            await scene(w, process, port)

    asyncio.run(whole())


async def until_told(port: int, wanted: Callable[[Samples], object]) -> Samples:
    """Return the samples once `wanted` holds for them; TimeoutError after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if wanted(metrics := await asyncio.to_thread(scrape, port)):
                    return metrics
            await asyncio.sleep(0.1)


async def come_and_go(w: World, process: GatewayProcess) -> None:
    async with await process.client() as client:
        reader, writer = await client.open_connection(w.canonical, 22)
        await reader.readline()
        writer.close()
        await writer.wait_closed()


async def replace_workers(process: GatewayProcess) -> None:
    """Reload, and wait until the old workers, which have no connections, have ended."""
    old = process.workers()
    await process.reload()
    await until(lambda: old.isdisjoint(process.workers()))


def test_what_people_do_is_counted(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess, port: int) -> None:
        async with await process.client() as client:
            reader, _ = await client.open_connection(w.canonical, 22)
            await reader.readline()
            with pytest.raises(asyncssh.ChannelOpenError):
                await client.open_connection("nobody.there.berth", 22)
            stranger = make_key(w.place / "stranger")
            with pytest.raises(asyncssh.PermissionDenied):
                await asyncssh.connect(
                    "127.0.0.1", process.port, client_keys=[str(stranger)], known_hosts=None, agent_path=None
                )
            await until_told(port, lambda metrics: metrics.get(("berth_gateway_logins_total", ("no_login",))) == 1)
            await until_told(port, lambda metrics: metrics["berth_gateway_connections", ()] == 1)
            await until_told(port, lambda metrics: metrics["berth_gateway_forwards", ()] == 1)
        await until_told(port, lambda metrics: metrics["berth_gateway_forwards", ()] == 0)
        metrics = await until_told(port, lambda metrics: ("berth_gateway_bytes_total", ("received",)) in metrics)
        assert metrics["berth_gateway_logins_total", ("accepted",)] == 1
        assert metrics["berth_gateway_forwards_total", ("opened",)] == 1
        assert metrics["berth_gateway_forwards_total", ("refused",)] == 1
        assert metrics["berth_gateway_bytes_total", ("received",)] > 10
        assert metrics["berth_gateway_workers", ()] == 2
        assert metrics["berth_gateway_controller_seconds_count", ("resolve",)] == 1
        assert metrics["berth_gateway_controller_seconds_bucket", ("+Inf", "keys")] >= 1
        assert not any("nobody" in label for _, labels in metrics for label in labels)

    play(place, scene)


def test_no_count_is_lost_by_reloads_and_no_files_pile_up(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess, port: int) -> None:
        for rounds in range(1, 4):
            await come_and_go(w, process)
            # A worker that has nothing left to do ends; what it has counted is told by the master from then on.
            await replace_workers(process)
            metrics = await until_told(port, lambda metrics: metrics["berth_gateway_workers", ()] == 2)
            assert metrics["berth_gateway_logins_total", ("accepted",)] == rounds
            assert metrics["berth_gateway_forwards_total", ("opened",)] == rounds
        files = sorted(path.name for path in (w.place / "process" / "metrics").iterdir())
        assert len([name for name in files if name.endswith(".json")]) == 3, files

    play(place, scene)


def test_a_worker_that_is_killed_takes_a_second_with_it_at_most(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess, port: int) -> None:
        await come_and_go(w, process)
        await until_told(port, lambda metrics: metrics.get(("berth_gateway_logins_total", ("accepted",))) == 1)
        for pid in process.workers():
            os.kill(pid, signal.SIGKILL)
        await process.says("another takes its place", 2)
        await process.says(r"worker \d of 2 serves", 4)
        metrics = await until_told(port, lambda metrics: metrics["berth_gateway_workers", ()] == 2)
        assert metrics["berth_gateway_logins_total", ("accepted",)] == 1

    play(place, scene)


def test_a_port_that_is_taken_keeps_nobody_from_their_session(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess, port: int) -> None:
        del port
        await process.says("metrics are not served")
        await come_and_go(w, process)

    async def whole() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with (
            asyncio.timeout(TEST_DEADLINE_S),
            server,
            world(place) as w,
            gateway_process(w, metrics_listen=f"127.0.0.1:{port}") as process,
        ):
            await scene(w, process, port)

    asyncio.run(whole())


def test_without_the_setting_nothing_is_written(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess, port: int) -> None:
        del port
        await come_and_go(w, process)
        assert not (w.place / "process" / "metrics").exists()

    play(place, scene, metrics_listen=None)


def test_what_an_earlier_gateway_has_left_is_forgotten(tmp_path: Path) -> None:
    counts = Counters()
    counts.count("logins", "accepted")
    first = MetricsTotals(tmp_path, fresh=True)
    (tmp_path / "7.json").write_text('{"totals": {"logins accepted": 2}, "seconds": {}, "now": {"connections": 3}}')
    assert value(first, "berth_gateway_logins_total") == 2
    assert value(first, "berth_gateway_connections") == 3
    first.add_ended_worker(7)
    first.add_ended_worker(7)
    assert value(MetricsTotals(tmp_path, fresh=False), "berth_gateway_logins_total") == 2
    assert value(first, "berth_gateway_connections") == 0
    assert value(MetricsTotals(tmp_path, fresh=True), "berth_gateway_logins_total") == 0


def test_seconds_become_a_histogram() -> None:
    counts = Counters()
    for seconds in (0.001, 0.005, 0.3, 60):
        counts.measure("controller_seconds", "keys", seconds)
    assert counts.snapshot()["totals"] == {
        "controller_seconds keys 0.005": 2,
        "controller_seconds keys 0.5": 1,
        "controller_seconds keys +Inf": 1,
    }
    assert counts.snapshot()["seconds"] == {"controller_seconds keys": pytest.approx(60.306)}


def value(totals: MetricsTotals, name: str) -> float:
    return sum(sample.value for family in totals.collect() for sample in family.samples if sample.name == name)
