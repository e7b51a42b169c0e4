"""The controller's metrics for Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from broker.config.setting_types import parse_host_and_port
from broker.config.settings import Config
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.metrics_exporter import serve_controller_metrics
from broker.gateway.counters import MAX_SERIES, Counters
from broker.service import metrics_server
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Core, site_config
from tests.fakes.gateway_process import free_port
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import SilentScheduler
from tests.fakes.scrape import scrape

if TYPE_CHECKING:
    from pathlib import Path


def core_of(place: Path) -> Core:
    scheduler = SilentScheduler()
    scheduler.silent = False
    return Core.make(site_config(place), FakeLauncher(scheduler))


def test_sessions_by_state_and_how_long_slurm_has_been_silent(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = core_of(tmp_path)
        port = free_port()
        await core.ready("one")
        await core.stopped("two")
        with serve_controller_metrics("127.0.0.1", port, core.registry, core.reconciler):
            told = await asyncio.to_thread(scrape, port)
            assert told["berth_sessions", ("ready",)] == 1
            assert told["berth_sessions", ("stopped",)] == 1
            assert told["berth_sessions", ("failed",)] == 0
            assert ("berth_sessions", ("deleted",)) not in told
            assert told["berth_slurm_stale_seconds", ()] == 0
            assert isinstance(core.scheduler, SilentScheduler)
            core.scheduler.silent = True
            await core.tick()
            assert core.reconciler.observed.stale_since is not None
            core.reconciler.observed.stale_since -= 60
            assert (await asyncio.to_thread(scrape, port))["berth_slurm_stale_seconds", ()] >= 60
            core.registry.close()

    asyncio.run(scenario())


def test_looks_and_their_failures_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        core = core_of(tmp_path)
        port = free_port()
        with serve_controller_metrics("127.0.0.1", port, core.registry, core.reconciler):
            before = await asyncio.to_thread(scrape, port)
            await core.reconciler._guarded_tick()

            async def fail() -> bool:
                raise LauncherError("crashed", "no")

            monkeypatch.setattr(core.reconciler, "tick", fail)
            await core.reconciler._guarded_tick()
            after = await asyncio.to_thread(scrape, port)
        for name, more in (("berth_reconcile_duration_seconds_count", 2), ("berth_reconcile_failures_total", 1)):
            assert after[name, ()] - before[name, ()] == more, name

    asyncio.run(scenario())


def test_two_cannot_have_one_port(tmp_path: Path) -> None:
    core = core_of(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):  # noqa: SIM117
        with serve_controller_metrics("127.0.0.1", taken.getsockname()[1], core.registry, core.reconciler):
            pass
    with serve_controller_metrics("127.0.0.1", free_port(), core.registry, core.reconciler):
        pass  # what was begun is taken back


def test_clients_that_stall_take_few_threads_and_not_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "CONNECTION_TIMEOUT_S", 0.5)
    core, port, before = core_of(tmp_path), free_port(), threading.active_count()
    with serve_controller_metrics("127.0.0.1", port, core.registry, core.reconciler), contextlib.ExitStack() as stack:
        for number in range(100):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            with contextlib.suppress(ConnectionError):
                client.sendall(b"GET /metrics HTTP/1.1\r\n" if number % 2 else b"")
        assert threading.active_count() - before <= 2 * metrics_server.MAX_CONNECTIONS + 2, "each has a timer"
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(OSError):
                assert scrape(port)["berth_slurm_stale_seconds", ()] == 0
                break
            assert time.monotonic() < deadline
    core.registry.close()


def test_labels_beyond_a_bound_are_counted_together() -> None:
    counts = Counters()
    for number in range(MAX_SERIES * 4):
        counts.count("forwards", f"invented-{number}")
    totals = counts.snapshot()["totals"]
    assert len(totals) == MAX_SERIES + 1
    assert totals["forwards other"] == MAX_SERIES * 3


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:9417", ("127.0.0.1", 9417)),
        ("[::1]:80", ("::1", 80)),
        ("login.example:65535", ("login.example", 65535)),
    ],
)
def test_an_address_has_a_host_and_a_port(text: str, parts: tuple[str, int]) -> None:
    assert parse_host_and_port(text) == parts
    assert Config.model_validate({"metrics": {"listen": text}}).metrics.listen == text


@pytest.mark.parametrize(
    "text", ["9417", ":9417", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:80", "a b:1", "h:1x"]
)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Config.model_validate({"gateway": {"metrics_listen": text}})
