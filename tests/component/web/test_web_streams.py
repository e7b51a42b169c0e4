"""WebSockets of any size and kind, and event streams, pass through HAProxy unchanged, one message at a time."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
from typing import TYPE_CHECKING

from tests.component.web.http2 import connect_http2, http2_request
from tests.deadlines import DEADLINE_S
from tests.fakes.web_world import WebWorld, play_web

if TYPE_CHECKING:
    from tests.fakes.raw_http import Wire

LARGE = 64 * 2**20
ODD_PROTOCOLS = "bokeh, eyJhIjogMX0.x_y~z, v4.channel.k8s.io"
"""Protocols with which applications carry tokens and versions."""
DEFLATE = "permessage-deflate; client_max_window_bits, permessage-deflate"


def _close(code: int, reason: bytes) -> bytes:
    """A close frame of a client (RFC 6455, section 5.5.1), masked with zeros."""
    body = struct.pack("!H", code) + reason
    return bytes([0x88, 0x80 | len(body)]) + b"\0\0\0\0" + body


async def _read(wire: Wire, count: int) -> bytes:
    digest = hashlib.sha256()
    while count:
        some = await wire.reader.read(min(count, 2**20))
        assert some
        digest.update(some)
        count -= len(some)
    return digest.digest()


def test_handshake_and_messages_of_websockets_are_unchanged() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        world.echo.answer_headers = (
            b"Sec-WebSocket-Protocol: eyJhIjogMX0.x_y~z\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        )
        asked = {"Sec-WebSocket-Protocol": ODD_PROTOCOLS, "Sec-WebSocket-Extensions": DEFLATE}
        answer, wire = await world.websocket(browser, **asked)
        assert answer.status == 101
        assert answer.header("sec-websocket-protocol") == "eyJhIjogMX0.x_y~z"
        assert answer.header("sec-websocket-extensions") == "permessage-deflate"
        head = world.echo.heads[-1].decode("latin-1")
        for name, value in asked.items():
            assert f"\r\n{name.lower()}: {value}\r\n" in head
        for code in (1000, 1001, 1011, 3000, 4000, 4999):
            await wire.send(_close(code, b"because \xc3\xa4"))
            assert await wire.exactly(len(_close(code, b"because \xc3\xa4"))) == _close(code, b"because \xc3\xa4")
        for number in range(10_000):
            await wire.send(b"message %05d" % number)
        assert await wire.exactly(130_000) == b"".join(b"message %05d" % number for number in range(10_000))

    play_web(scene)


def test_large_message_of_a_websocket_is_unchanged() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        answer, wire = await world.websocket(browser)
        assert answer.status == 101
        block = os.urandom(2**20)
        count = LARGE // len(block)
        reading = asyncio.create_task(_read(wire, LARGE))
        for _ in range(count):
            await wire.send(block)
        async with asyncio.timeout(DEADLINE_S):
            assert await reading == hashlib.sha256(block * count).digest()

    play_web(scene)


def test_client_that_ends_a_websocket_is_seen_by_the_service() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        _, wire = await world.websocket(browser)
        assert world.echo.sockets == 1
        wire.writer.transport.abort()
        async with asyncio.timeout(DEADLINE_S):
            while world.echo.sockets:  # noqa: ASYNC110 - the service sets no Event
                await asyncio.sleep(0.01)

    play_web(scene)


def test_events_come_one_by_one_in_http2_too() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        h2 = await connect_http2(world, browser)
        ours, page = ("cookie", f"__Host-Http-berth={browser.cookie}"), ("sec-fetch-site", "same-origin")
        stream = await h2.send(http2_request(world, browser, "GET", "/events", ours, page))
        assert await h2.status(stream) == 200
        for number in range(5):
            await world.echo.events.put(b"data: %d\n\n" % number)
            assert await h2.data(stream, 9) == b"data: %d\n\n" % number

    play_web(scene, tls=True)
