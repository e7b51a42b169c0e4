"""Requests to an ssh(1) that shares its connection (ControlMaster), in its own protocol: PROTOCOL.mux of OpenSSH.

`ssh -S` and `ssh -O` do the same, but cost a process: of each service as long as it is open.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from broker.errors import BerthError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TIMEOUT_S = 10.0
"""Time for the answer to a request."""
MAX_PACKET_BYTES = 256 * 1024
MAX_LINE_BYTES = 64 * 1024
"""Limit for a line of a command's output."""
_VERSION = 4
_HELLO = 0x00000001
_NEW_SESSION, _OPEN_FORWARD, _CLOSE_FORWARD = 0x10000002, 0x10000006, 0x10000007
_OK, _SESSION_OPENED = 0x80000001, 0x80000006
_REFUSALS = {0x80000002, 0x80000003}
"""MUX_S_PERMISSION_DENIED and MUX_S_FAILURE, each with a reason."""
_LOCAL = 1
"""The kind of a forward: MUX_FWD_LOCAL."""
_UNIX_SOCKET = 0xFFFFFFFE
"""In place of a port, if an address is the path of a socket: PORT_STREAMLOCAL."""
_NO_ESCAPE = 0xFFFFFFFF
_REQUEST_ID = 1
"""Each request has a connection of its own."""


class MuxError(BerthError):
    """ssh has ended, does not answer, or has refused a request."""


async def open_forward(control: Path, local: Path, remote: str) -> None:
    """Forward a new local socket to a socket at the other end. MuxError if ssh refuses it."""
    await _change_forward(_OPEN_FORWARD, control, local, remote)


async def close_forward(control: Path, local: Path, remote: str) -> None:
    """Take a forward away. MuxError if there is none."""
    await _change_forward(_CLOSE_FORWARD, control, local, remote)


async def _change_forward(kind: int, control: Path, local: Path, remote: str) -> None:
    with ExitStack() as stack:
        connection = await _connect(control, stack)
        await connection.ask(kind, _LOCAL, str(local), _UNIX_SOCKET, remote, _UNIX_SOCKET, expected=_OK)


@asynccontextmanager
async def open_channel(control: Path, command: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run a command in a session channel, and yield its output. Its standard input ends, at the latest, with the block.

    MuxError if ssh opens no channel.
    """
    with ExitStack() as stack:
        connection = await _connect(control, stack)
        with ExitStack() as theirs:
            their_input, our_output = os.pipe()
            theirs.callback(os.close, their_input)
            stack.callback(os.close, our_output)
            our_input, their_output = os.pipe()
            theirs.callback(os.close, their_output)
            reader = await _read_pipe(our_input, stack)
            null = os.open(os.devnull, os.O_WRONLY)
            theirs.callback(os.close, null)
            await connection.ask(
                *(_NEW_SESSION, "", 0, 0, 0, 0, _NO_ESCAPE, "", command),
                expected=_SESSION_OPENED,
                descriptors=(their_input, their_output, null),
            )
        yield reader


async def _read_pipe(descriptor: int, stack: ExitStack) -> asyncio.StreamReader:
    """Return a reader of the pipe, which is closed with the stack."""
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    file = stack.enter_context(os.fdopen(descriptor, "rb", buffering=0))
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    stack.callback(pipe.close)
    return reader


async def _connect(control: Path, stack: ExitStack) -> _MasterConnection:
    """Return a connection that ends with the stack."""
    connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    connection.setblocking(False)
    made = _MasterConnection(connection)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(connection, str(control))
            await made.greet()
    except (OSError, TimeoutError) as error:
        raise MuxError(f"ssh does not answer: {str(error) or 'timeout'}") from error
    return made


class _MasterConnection:
    """A connection to the master's socket. Integers are of 32 bits; each text has its length before it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    async def greet(self) -> None:
        """Exchange versions. MuxError for another one."""
        await self._send(_HELLO, _VERSION)
        kind, version = struct.unpack_from(">II", await self._receive())
        if (kind, version) != (_HELLO, _VERSION):
            raise MuxError(f"ssh shares connections by another protocol: version {version}")

    async def ask(self, kind: int, *fields: int | str, expected: int, descriptors: tuple[int, ...] = ()) -> None:
        """Send a request and file descriptors, and return after the expected answer. MuxError for any other one."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._send(kind, _REQUEST_ID, *fields)
                for each in descriptors:
                    socket.send_fds(self._connection, [b"\0"], [each])
                packet = await self._receive()
        except (OSError, TimeoutError) as error:
            raise MuxError(f"ssh does not answer: {str(error) or 'timeout'}") from error
        kind = struct.unpack_from(">I", packet)[0]
        if kind != expected:
            reason = packet[12:].decode(errors="replace") if kind in _REFUSALS else f"answer {kind:#x}"
            raise MuxError(f"ssh has refused a request: {ascii(reason[:200])[1:-1]}")

    async def _send(self, *fields: int | str) -> None:
        packet = b"".join(
            struct.pack(">I", each) if isinstance(each, int) else struct.pack(">I", len(each.encode())) + each.encode()
            for each in fields
        )
        data = struct.pack(">I", len(packet)) + packet
        await asyncio.get_running_loop().sock_sendall(self._connection, data)

    async def _receive(self) -> bytes:
        """Return the next packet. OSError at the end, or for a packet that is no answer."""
        (length,) = struct.unpack(">I", await self._read(4))
        if not 8 <= length <= MAX_PACKET_BYTES:
            raise OSError("its answer has a wrong length")
        return await self._read(length)

    async def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            some = await asyncio.get_running_loop().sock_recv(self._connection, count - len(data))
            if not some:
                raise OSError("it has closed the connection")
            data += some
        return data
