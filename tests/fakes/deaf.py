"""A session's server that proves itself to guards, and reads nothing of what else comes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

import asyncssh

from broker.gateway.guard import SERVICE_REQUEST
from broker.ssh.keys import PublicKey
from tests.fakes import openssh
from tests.fakes.openssh import public

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from asyncssh.packet import SSHPacket


class _Server(asyncssh.SSHServer):
    """Answers as often as a guard asks, as sshd does; asyncssh itself answers once."""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        process = conn.process_packet

        def process_packet(pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
            if pkttype == SERVICE_REQUEST:
                conn._next_service = b"ssh-userauth"
            return process(pkttype, pktid, packet)

        conn.process_packet = process_packet  # type: ignore[method-assign]  # one object's

    def public_key_auth_supported(self) -> bool:
        return True


class Deaf(asyncio.Protocol):
    """One connection to it."""

    def __init__(self, options: asyncssh.SSHServerConnectionOptions, says: bytes) -> None:
        self._options = options
        self._says = says
        self._guard: asyncssh.SSHServerConnection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._says)

    def data_received(self, data: bytes) -> None:
        if self._guard is None:
            if not data.startswith(b"SSH-2.0-Berth"):
                self._transport.pause_reading()
                return
            self._guard = asyncssh.SSHServerConnection(asyncio.get_running_loop(), self._options)
            self._guard.connection_made(self._transport)
        self._guard.data_received(data)

    def abort(self) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._guard is not None:
            self._guard.connection_lost(exc)


@contextlib.asynccontextmanager
async def deaf_session(key_path: Path, says: bytes = b"") -> AsyncIterator[tuple[int, str]]:
    """Run such a server during the block; yield its port, and its host key's fingerprint. `says`: to all clients."""
    key = openssh.make_key(key_path)
    options = await asyncssh.SSHServerConnectionOptions.construct(server_factory=_Server, server_host_keys=[key])
    connections: list[Deaf] = []  # else those that read nothing are garbage, for Python, and closed

    def connect() -> Deaf:
        connections.append(Deaf(options, says))
        return connections[-1]

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], PublicKey.parse(public(key)).fingerprint
    finally:
        server.close()
        for each in connections:
            each.abort()
        await asyncio.sleep(0)
