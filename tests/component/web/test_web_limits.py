"""Limits of time and number for strangers, and for a browser with too much at once."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from broker.origins import Origins
from broker.web import haproxy_config
from tests.component.web.http2 import Http2, connect_http2, http2_request
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.raw_http import Wire, connect, request
from tests.fakes.web_world import OWN_PAGE, Entered, WebWorld, play_web, web_world


@pytest.mark.parametrize("tls", [False, True])
def test_idle_connection_ends_soon_and_what_is_open_stays(tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy_config, "CLIENT_TIMEOUT_S", 1)

    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        _, socket = await world.websocket(browser)
        events = await _events(world, browser)
        stream = await _stream(world, browser) if tls else None
        for _ in range(2):
            idle = await connect(world.port)  # without a byte: with TLS, its handshake has not begun
            await idle.rest()
            idle.close()
        await socket.send(b"hello")
        assert await socket.exactly(5) == b"hello"
        await world.echo.events.put(b"data: 1\n\n")
        assert await events.exactly(14) == b"9\r\ndata: 1\n\n\r\n"
        if stream is not None:
            await world.echo.events.put(b"data: 1\n\n")
            assert await stream[0].data(stream[1], 9) == b"data: 1\n\n"

    play_web(scene, tls=tls)


async def _events(world: WebWorld, browser: Entered) -> Wire:
    """An event stream that is open."""
    wire = await world.wire()
    await wire.send(request("GET", "/events", world.authority(browser.host), OWN_PAGE | world.cookie(browser)))
    assert (await wire.head()).status == 200
    return wire


async def _stream(world: WebWorld, browser: Entered) -> tuple[Http2, int]:
    """The same in a stream of HTTP/2."""
    h2 = await connect_http2(world, browser)
    headers = [("cookie", f"__Host-Http-berth={browser.cookie}"), ("sec-fetch-site", "same-origin")]
    stream = await h2.send(http2_request(world, browser, "GET", "/events", *headers))
    assert await h2.status(stream) == 200
    return h2, stream


def test_one_address_has_a_limited_number_of_connections() -> None:
    async def scene(world: WebWorld) -> None:
        others = await connect(world.port, source="127.0.0.2")
        wires = [await _kept(world) for _ in range(10)]
        head = request("GET", "/", world.authority(world.host()))
        assert not await _is_served(world, head)
        await others.send(head)
        assert (await others.head()).status == 403
        await wires[0].send(head)
        assert (await wires[0].head()).status == 403
        wires[1].close()
        async with asyncio.timeout(DEADLINE_S):
            while not await _is_served(world, head):  # noqa: ASYNC110 - HAProxy sets no Event
                await asyncio.sleep(0.02)
        others.close()

    play_web(scene, address_connections=10)


async def _kept(world: WebWorld) -> Wire:
    """A connection that HAProxy has accepted: a request on it has its answer."""
    wire = await world.wire()
    await wire.send(request("GET", "/", world.authority(world.host())))
    assert (await wire.answer()).status == 403
    return wire


async def _is_served(world: WebWorld, head: bytes) -> bool:
    try:
        return (await world.ask(head)).status == 403
    except (ConnectionError, asyncio.IncompleteReadError):
        return False


def test_behind_a_proxy_all_clients_have_its_address() -> None:
    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S), web_world(address_connections=10) as world:
            origins = Origins.parse(f"https://apps.localhost:{world.port}")
            world.settings = dataclasses.replace(world.settings, origins=origins, listen=world.place / "http.sock")
            async with world.serving():
                wires = [await world.wire() for _ in range(30)]
                for wire in wires:
                    await wire.send(request("GET", "/", world.authority(world.host())))
                    assert (await wire.head()).status == 403

    asyncio.run(whole())


def test_one_grant_has_a_limited_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy_config, "MAX_GRANT_REQUESTS", 2)

    async def scene(world: WebWorld) -> None:
        browser, other = await world.entered(), await world.entered()
        (_, first), _ = [await world.websocket(browser) for _ in range(2)]
        assert (await world.get(browser)).status == 429
        assert (await world.websocket(browser))[0].status == 429
        assert (await world.get(other)).status == 200
        assert [head.split(b" ")[1] for head in world.echo.heads] == [b"/ws", b"/ws", b"/"]
        first.close()
        async with asyncio.timeout(DEADLINE_S):
            while (await world.get(browser)).status != 200:  # noqa: ASYNC110 - HAProxy sets no Event
                await asyncio.sleep(0.02)

    play_web(scene)
