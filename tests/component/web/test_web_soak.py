"""Web access for long and in numbers, with the times that the issue promises: run it on a quiet machine."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING

import pytest

from broker.schema.web import EndedVisits
from tests.fakes.web_world import Entered, WebWorld, play_web

if TYPE_CHECKING:
    from tests.fakes.raw_http import Wire

pytestmark = pytest.mark.soak
HOUR_S = 65 * 60
REVOCATION_S = 0.1
"""Time for a revocation until the WebSocket is closed."""
BROWSERS = 200
OPENING_S = 2.0
"""Time for the first page of a service, for 99 of 100 browsers that open it at once."""


async def _open(world: WebWorld, browser: Entered) -> Wire:
    answer, wire = await world.websocket(browser)
    assert answer.status == 101
    await wire.send(b"first")
    assert await wire.exactly(5) == b"first"
    return wire


async def _closed_at(wire: Wire) -> float:
    assert await wire.rest() == b""
    return time.monotonic()


async def _revoke(world: WebWorld, browser: Entered) -> float:
    """Send the controller's message, and return when that was, once it is acknowledged."""
    body = EndedVisits(visit_ids=[browser.visit.id]).model_dump_json().encode()
    reader, writer = await asyncio.open_unix_connection(world.settings.control_socket)
    head = f"POST /v1/close HTTP/1.1\r\nHost: berth-web\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    sent_at = time.monotonic()
    writer.write(head.encode() + body)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    return sent_at


def test_idle_websocket_outlives_an_hour() -> None:
    """Nothing passes: only keepalives of ssh and of the client's TCP."""

    async def scene(world: WebWorld) -> None:
        wire = await _open(world, await world.entered(seconds=2 * HOUR_S))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.reader.read(1), HOUR_S)
        await wire.send(b"after")
        assert await wire.exactly(5) == b"after"

    play_web(scene, seconds=HOUR_S + 600)


@pytest.mark.parametrize("reloads", [False, True])
def test_hundred_revocations_close_at_once(*, reloads: bool) -> None:
    async def scene(world: WebWorld) -> None:
        stays = await _open(world, await world.entered())
        times: list[float] = []
        for _ in range(100):
            browser = await world.entered()
            wire = await _open(world, browser)
            if reloads:
                await world.gateway.haproxy.reload()
            closing = asyncio.create_task(_closed_at(wire))
            sent_at = await _revoke(world, browser)
            times.append(await closing - sent_at)
            assert (await world.get(browser)).status == 403
        await stays.send(b"still")
        assert await stays.exactly(5) == b"still"
        assert max(times) <= REVOCATION_S, statistics.quantiles(times)

    play_web(scene, seconds=600)


def test_many_browsers_open_a_service_at_once() -> None:
    async def scene(world: WebWorld) -> None:
        async def first_page() -> float:
            began = time.monotonic()
            browser = await world.enter(world.visit())
            while (answer := await world.navigate(browser.host, **world.cookie(browser))).status != 200:
                assert answer.status in {202, 303}
            return time.monotonic() - began

        await world.entered()
        times = await asyncio.gather(*(first_page() for _ in range(BROWSERS - 1)))
        assert statistics.quantiles(times, n=100)[98] < OPENING_S

    play_web(scene, seconds=600, address_connections=10_000)
