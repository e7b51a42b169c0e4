"""A web service on a Unix socket, which keeps what it receives: echo, WebSocket, streams and upload."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

STREAM_HEADERS = {
    b"/download": b"Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n",
    b"/events": b"Content-Type: text/event-stream\r\nConnection: close\r\n\r\n",
}
"""Of the answers to requests with a name; events come until the connection closes."""


class RecordingService:
    """Answers `/ws` by an echo of bytes, `/events` by what `events` gets, and other paths by the request's head.

    The answers to `/events?NAME` and `/download?NAME` have what a test writes to `streams[NAME]`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heads: list[bytes] = []
        """The heads of all requests, as they came."""
        self.bodies: list[int] = []
        """The length of each body that has come whole."""
        self.trailers: list[bytes] = []
        """The lines after the last chunk of each body that has some."""
        self.body_begun = asyncio.Event()
        self.events: asyncio.Queue[bytes] = asyncio.Queue()
        self.streams: dict[str, asyncio.StreamWriter] = {}
        """The connections of answers that a test writes, by their names."""
        self.pages: dict[bytes, tuple[bytes, bytes]] = {}
        """By path, the media type and the body of answers that are not the request's head."""
        self.answer_headers = b""
        """Lines that the answers to `/ws` and other paths have, too."""
        self.open = 0
        """Connections that are open."""
        self.connections = 0
        """Connections so far."""
        self.sockets = 0
        """WebSockets that are open."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.open += 1
        self.connections += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self.open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        path, _, query = head.split(b" ", 2)[1].partition(b"?")
        if path == b"/ws" and b"\r\nupgrade: websocket" in head.lower():
            self.sockets += 1
            try:
                await _echo(head, self.answer_headers, reader, writer)
            finally:
                self.sockets -= 1
            return False
        if query and path in STREAM_HEADERS:
            self.streams[query.decode()] = writer
            writer.write(b"HTTP/1.1 200 OK\r\n" + STREAM_HEADERS[path])
            await reader.read()
            return False
        if path == b"/events":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                event = await self.events.get()
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
        length = await self._body(head, reader)
        self.bodies.append(length)
        kind, body = self.pages.get(path, (b"", head))
        lines = self.answer_headers + (b"Content-Type: %s\r\n" % kind if kind else b"")
        writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (lines, len(body), body))
        await writer.drain()
        return True

    async def _body(self, head: bytes, reader: asyncio.StreamReader) -> int:
        found = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
        length = 0
        if found:
            while length < int(found[1]):
                length += len(await reader.readexactly(min(int(found[1]) - length, 10 if length == 0 else 65536)))
                self.body_begun.set()
        elif b"\r\ntransfer-encoding: chunked" in head.lower():
            while size := int((await reader.readline()).strip().partition(b";")[0], 16):
                length += len(await reader.readexactly(size))
                await reader.readexactly(2)
                self.body_begun.set()
            while (line := await reader.readline()).strip():
                self.trailers.append(line)
        return length


async def _echo(head: bytes, more: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    key = re.search(rb"\r\nsec-websocket-key: *(\S+)", head.lower())
    original = head[key.start(1) : key.end(1)] if key else b""
    accept = base64.b64encode(hashlib.sha1(original + ACCEPT, usedforsecurity=False).digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    writer.write(b"%sSec-WebSocket-Accept: %s\r\n\r\n" % (more, accept))
    while some := await reader.read(65536):
        writer.write(some)
        await writer.drain()
