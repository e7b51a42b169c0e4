"""HTTP/2 as bytes, for tests: a connection whose requests are streams."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.deadlines import DEADLINE_S
from tests.fakes.raw_http import Wire, connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fakes.web_world import Entered, WebWorld

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9  # RFC 9113, 6
END_STREAM, END_HEADERS, ACKNOWLEDGED = 1, 4, 1
MAX_FRAME_BYTES = 16384
"""The largest frame that a side may send without an agreement, in bytes (RFC 9113, section 4.2)."""
ENABLE_CONNECT_PROTOCOL = 8  # RFC 8441, section 3
STATUS_INDEX = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}  # RFC 7541, appendix A


@dataclass
class Http2:
    """A connection; each request is a stream of its own."""

    wire: Wire
    settings: dict[int, int] = field(default_factory=dict)
    stream: int = -1

    async def begin(self) -> None:
        await self.wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2_frame(SETTINGS, 0, 0, b""))
        while not self.settings:
            await self._read()

    async def send(
        self,
        headers: Sequence[tuple[str, str]],
        *,
        ends: bool = True,
        data: bytes = b"",
        trailers: Sequence[tuple[str, str]] = (),
    ) -> int:
        """Send a request, and return the number of its stream."""
        self.stream += 2
        frames = _headers(self.stream, header_block(headers), ends=ends and not data and not trailers)
        if data:
            flags = END_STREAM if ends and not trailers else 0
            frames += http2_frame(DATA, flags, self.stream, data)
        if trailers:
            frames += _headers(self.stream, header_block(trailers), ends=True)
        await self.wire.send(frames)
        return self.stream

    async def status(self, stream: int) -> int:
        """The status of the answer; 0 if the stream or the connection is reset."""
        while True:
            try:
                kind, _, number, content = await self._read()
            except asyncio.IncompleteReadError:
                return 0
            if number == stream and kind == RESET:
                return 0
            if number == stream and kind == HEADERS:
                return _status_of(content)

    async def outcome(self, stream: int) -> int | None:
        """The status of the answer; 0 if stream or connection is reset; None if HAProxy sends nothing about it."""
        while True:
            try:
                kind, flags, number, content = await self._read()
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0
            if kind == GOAWAY or (number == stream and kind == RESET):
                return 0
            if number == stream and kind == HEADERS:
                return _status_of(content)
            if kind == PING and flags & ACKNOWLEDGED and content == b"are here":
                return None

    async def data(self, stream: int, count: int) -> bytes:
        content = b""
        while len(content) < count:
            kind, _, number, more = await self._read()
            content += more if (kind, number) == (DATA, stream) else b""
        return content

    async def ends(self, stream: int) -> bool:
        """Whether the stream ends, by whatever its server says."""
        while True:
            try:
                kind, flags, number, _ = await self._read()
            except asyncio.IncompleteReadError:
                return True
            if number == stream and (kind == RESET or (kind == DATA and flags & END_STREAM)):
                return True

    async def _read(self) -> tuple[int, int, int, bytes]:
        async with asyncio.timeout(DEADLINE_S):
            head = await self.wire.reader.readexactly(9)
            content = await self.wire.reader.readexactly(int.from_bytes(head[:3]))
        kind, flags = head[3], head[4]
        if kind == SETTINGS and not flags & ACKNOWLEDGED:
            for first in range(0, len(content), 6):
                self.settings[int.from_bytes(content[first : first + 2])] = int.from_bytes(
                    content[first + 2 : first + 6]
                )
            await self.wire.send(http2_frame(SETTINGS, ACKNOWLEDGED, 0, b""))
        return kind, flags, int.from_bytes(head[5:]) & 0x7FFFFFFF, content


def http2_frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


def header_block(headers: Sequence[tuple[str, str]]) -> bytes:
    """Headers as literals that no table keeps (RFC 7541, section 6.2.2), whatever they have."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def _headers(stream: int, block: bytes, *, ends: bool) -> bytes:
    """A frame with headers, and its continuations."""
    parts = [block[first : first + MAX_FRAME_BYTES] for first in range(0, len(block), MAX_FRAME_BYTES)] or [b""]
    kinds = [HEADERS, *[CONTINUATION] * (len(parts) - 1)]
    flags = [END_STREAM if ends else 0, *[0] * (len(parts) - 1)]
    flags[-1] |= END_HEADERS
    return b"".join(http2_frame(*each) for each in zip(kinds, flags, [stream] * len(parts), parts, strict=True))


def _text(text: str) -> bytes:
    """A string without Huffman's code (RFC 7541, section 5.2)."""
    rest = len(text) - 127
    if rest < 0:
        return bytes([len(text)]) + text.encode("latin-1")
    length = bytearray([127])
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes([*length, rest]) + text.encode("latin-1")


def _status_of(content: bytes) -> int:
    content = content[1:] if content[0] & 0xE0 == 0x20 else content  # a change of the table's size
    return STATUS_INDEX.get(content[0]) or int(content[2:5])


async def connect_http2(world: WebWorld, browser: Entered) -> Http2:
    assert world.tls is not None
    world.tls.set_alpn_protocols(["h2"])
    wire = await connect(world.port, world.tls, browser.host)
    world.tls.set_alpn_protocols(["http/1.1"])
    world.wires.append(wire)
    made = Http2(wire)
    await made.begin()
    return made


def http2_request(
    world: WebWorld, browser: Entered, method: str, path: str, *more: tuple[str, str]
) -> list[tuple[str, str]]:
    return [
        (":method", method),
        (":scheme", "https"),
        (":authority", world.authority(browser.host)),
        (":path", path),
        *more,
    ]
