"""A listener on the loopback interface for one service, which only its user's own browser reaches.

Other users of the machine can connect to a port there, and every page that the user visits can make the browser send
requests to it. So a connection is passed on if both hold:

- the process at its other end belongs to the user;
- its first request is for the random host name of this listener, which only the printed address has. A browser resolves
  every name below `localhost` to the loopback interface, uses a connection for one host only, and keeps the cookies of
  each host apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
from typing import TYPE_CHECKING, Self

from broker.client.loopback_peer import loopback_peer_uid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

MAX_HEAD_BYTES = 64 << 10
"""Limit for the head of the first request: more than browsers and servers use."""
HEAD_LIMIT_S = 60.0
"""Seconds until the first request: browsers open connections before they need them."""
_BIND_TRIES = 20
_PIECE_BYTES = 64 << 10


class LocalListener:
    """Listens on a free port of 127.0.0.1 and ::1, and passes each accepted connection to a Unix socket.

    As an async context manager it closes all connections at its end.
    """

    def __init__(self, label: str, target: Path, *, whose: Callable[..., int | None] = loopback_peer_uid) -> None:
        """`label` begins the host name. `whose` finds the user id at the other end of a connection."""
        self._target = target
        self._whose = whose
        self._host = f"{label}-{secrets.token_hex(10)}.localhost"
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}/"

    async def __aenter__(self) -> Self:
        sockets = _bind()
        self.port = sockets[0].getsockname()[1]
        for each in sockets:
            self._servers.append(await asyncio.start_server(self._accept, sock=each, limit=MAX_HEAD_BYTES))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):  # or a timeout
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer, own = writer.get_extra_info("peername")[:2], writer.get_extra_info("sockname")[:2]
        if self._whose(peer, own) != os.getuid():
            return
        async with asyncio.timeout(HEAD_LIMIT_S):
            head = await reader.readuntil(b"\r\n\r\n")
        if _hosts(head) != [f"{self._host}:{self.port}".encode()]:
            writer.write(_answer("421 Misdirected Request", "This is not the address that berth has printed."))
            return
        try:
            target, into = await asyncio.open_unix_connection(self._target, limit=_PIECE_BYTES)
        except OSError:
            writer.write(_answer("503 Service Unavailable", "The connection to the session has ended."))
            return
        try:
            into.write(head)
            await _relay((reader, into), (target, writer))
        finally:
            into.close()


def _bind() -> list[socket.socket]:
    """Return listening sockets of one port: of 127.0.0.1 and, where the machine has it, ::1. OSError without a port.

    A browser may try either address, so no other user may get the port of the other one.
    """
    for _ in range(_BIND_TRIES):
        first = socket.create_server(("127.0.0.1", 0))
        try:
            return [first, socket.create_server(("::1", first.getsockname()[1]), family=socket.AF_INET6)]
        except OSError as error:
            if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                return [first]
            first.close()
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no port is free on both 127.0.0.1 and ::1")


def _hosts(head: bytes) -> list[bytes]:
    """Return the values of all `Host` fields of a request."""
    fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return [value.strip() for name, _, value in fields if name.strip().lower() == b"host"]


def _answer(status: str, text: str) -> bytes:
    body = f"{text}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


_Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _relay(there: _Way, back: _Way) -> None:
    """Copy both ways until the service has ended its side.

    A service that ends without an answer gets a page in its place: it is just starting again.
    """
    sending = asyncio.create_task(_send(*there))
    try:
        if await _copy(*back) == 0:
            back[1].write(_answer("503 Service Unavailable", "The service does not answer: try again in a moment."))
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copy until the client has ended its side, and end the service's."""
    await _copy(source, target)
    target.write_eof()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> int:
    """Copy until the end; return the number of bytes."""
    count = 0
    while piece := await _read(source):
        count += len(piece)
        target.write(piece)
        await target.drain()
    return count


async def _read(source: asyncio.StreamReader) -> bytes:
    """Return what comes next; nothing at the end, and after a reset."""
    try:
        return await source.read(_PIECE_BYTES)
    except ConnectionError:
        return b""
