"""Relay connections of a Unix socket to a port of the session, if the session's owner serves that port.

The session's script carries this program, and the Python of the session's image runs it: it imports nothing but the
standard library, and has to run with Python 3.8.

Every user of the node can listen on its loopback addresses. So the program connects first, and sends nothing until it
knows whose process has accepted this very connection: /proc/net/tcp and tcp6 (proc_pid_net(5)) list every TCP socket
with its user id, the one at the other end too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine

HOSTS = ("127.0.0.1", "::1")
MAX_CONNECTIONS = 400
"""With two descriptors each, they stay below the usual limit of 1024."""
ACCEPT_LIMIT_S = 10.0
"""Seconds in which the server must accept a connection."""
FIRST_PAUSE_S, MAX_PAUSE_S = 0.002, 0.5
"""Seconds between two looks at the tables, which list all connections of the node."""
PAGE_LIMIT_S = 5.0
"""Seconds for which a refused client may send its request, and take the answer."""
CHUNK_BYTES = 64 * 1024

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


class PortUnusableError(Exception):
    """The port cannot be used. The message is for the user's page."""


class PortRelay:
    """The relay of one port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until both directions have ended, or one end has gone."""
        self._open += 1
        try:
            await self._serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        except OSError:
            pass  # an end has gone
        finally:
            writer.transport.abort()
            self._open -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._open > MAX_CONNECTIONS:
                raise PortUnusableError(f"{MAX_CONNECTIONS} connections to localhost:{self._port} are open already.")
            server = await self._connect()
        except PortUnusableError as refusal:
            await _send_page(reader, writer, str(refusal))
            return
        server_reader, server_writer = await asyncio.open_connection(sock=server)
        try:
            await _both(_copy(reader, server_writer), _copy(server_reader, writer))
        finally:
            server_writer.transport.abort()  # after both ends of file, there is nothing left to send

    async def _connect(self) -> socket.socket:
        """Return a connection to the owner's server. PortUnusableError if no address has one."""
        problems = []
        for host in HOSTS:
            try:
                return await asyncio.wait_for(self._connect_to(host), ACCEPT_LIMIT_S)
            except PortUnusableError as refusal:
                problems.append(str(refusal))
            except asyncio.TimeoutError:  # noqa: UP041 - another class before Python 3.11
                problems.append(
                    f"The server on localhost:{self._port} has not accepted the connection "
                    f"within {ACCEPT_LIMIT_S:.0f} s. Nothing was sent to it."
                )
            except OSError:
                pass  # nothing listens there
        nothing = f"Nothing listens on localhost:{self._port} in the session. Start your server there, then reload."
        raise PortUnusableError(problems[0] if problems else nothing)

    async def _connect_to(self, host: str) -> socket.socket:
        connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (host, self._port))
            if await _far_user(connection) != os.getuid():
                raise PortUnusableError(
                    f"The server on localhost:{self._port} belongs to another user of the node. Nothing was sent to "
                    "it. Start yours on another port, and publish that one."
                )
        except BaseException:
            connection.close()
            raise
        return connection


async def _far_user(connection: socket.socket) -> int:
    """Wait until a process has accepted the connection, and return its user id.

    ConnectionRefusedError if the connection is its own other end: TCP can make such a one to a free port.
    """
    near, far = connection.getsockname()[:2], connection.getpeername()[:2]
    if near == far:
        raise ConnectionRefusedError
    pause = FIRST_PAUSE_S
    while True:
        user = _find_acceptor(near, far)
        if user is not None:
            return user
        await asyncio.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_S)


def _find_acceptor(near: tuple[str, int], far: tuple[str, int]) -> int | None:
    """Return the user id of the process that has the socket at the other end; None if it has no process yet."""
    wanted = [f" {_format_address(far, mapped)} {_format_address(near, mapped)} " for mapped in (False, True)]
    for table in _TABLES:
        with contextlib.suppress(FileNotFoundError), open(table, encoding="ascii") as rows:  # noqa: PTH123 - as is
            for row in rows:
                if wanted[0] in row or wanted[1] in row:
                    fields = row.split()
                    user, inode = fields[7], fields[9]
                    if inode != "0":  # Linux gives a socket its user with its inode, when it is accepted
                        return int(user)
    return None


def _format_address(address: tuple[str, int], mapped: bool) -> str:
    """Return an address as the tables write it: words of the machine's byte order in hexadecimal digits, and the port.

    `mapped`: an IPv4 address as the socket of a server for both families has it.
    """
    packed = ipaddress.ip_address(address[0]).packed
    if mapped and len(packed) == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction up to its end of file, and pass that on."""
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _both(*directions: Coroutine[None, None, None]) -> None:
    """Run both directions to their ends. The failure of one cancels the other."""
    tasks = [asyncio.ensure_future(direction) for direction in directions]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _send_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> None:
    """Answer a client's request with words, and discard what else it sends."""
    with contextlib.suppress(asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PAGE_LIMIT_S)
    body = f"{text}\n".encode()
    writer.write(
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    writer.write_eof()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_discard(reader), PAGE_LIMIT_S)


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(CHUNK_BYTES):
        pass


async def main(path: str, port: int) -> None:
    """Listen on the Unix socket until a signal ends the process."""
    server = await asyncio.start_unix_server(PortRelay(port).serve, path)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
