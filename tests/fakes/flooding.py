"""A session's server that sends far more than an sshd does: a program, so that its work is not the gateway's.

    flooding.py KEY HOW

KEY is its host key, HOW one of WAYS. Prints its port, and `connection` for each that it gets.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import asyncssh
from asyncssh.constants import (
    MSG_DEBUG,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_SERVICE_ACCEPT,
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_SUCCESS,
)
from asyncssh.packet import Boolean, NameList, String

from tests.fakes.hostile import IGNORE, VERSION, kexinit, packet

if TYPE_CHECKING:
    from collections.abc import Callable

RAW: dict[str, tuple[bytes, bytes]] = {
    "lines before the version": (b"", b"hello\r\n" * 1000),
    "one line without end": (b"", b"x" * 65536),
    "ignore before keys": (VERSION + kexinit("curve25519-sha256"), packet(IGNORE, bytes(4)) * 1000),
    "a packet as long as is allowed": (VERSION + (200_000).to_bytes(4, "big"), bytes(65536)),
}
"""Messages that are sent first, and then again and again."""

KEYED: dict[str, tuple[int, bytes]] = {
    "ignore": (MSG_IGNORE, String(b"")),
    "debug": (MSG_DEBUG, Boolean(False) + String(b"") + String(b"")),
    "answers that nobody asked for": (MSG_SERVICE_ACCEPT, String(b"ssh-userauth")),
    "banners": (MSG_USERAUTH_BANNER, String(b"x") + String(b"")),
    "failures": (MSG_USERAUTH_FAILURE, NameList([b"publickey"]) + Boolean(False)),
    "requests": (MSG_GLOBAL_REQUEST, String(b"x") + Boolean(True)),
    "a login and then requests": (MSG_GLOBAL_REQUEST, String(b"x") + Boolean(True)),
}
"""The packet that is sent again and again once keys are exchanged."""
REKEYING = "keys again and again"

WAYS = [*RAW, *KEYED, REKEYING]


class Server(asyncssh.SSHServer):
    """Floods from the moment at which the client wants to log in."""

    def __init__(self, how: str) -> None:
        self._how = how

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        print("connection", flush=True)
        self._conn = conn

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002 - anybody
        self._flooding = asyncio.create_task(self._flood())
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def _flood(self) -> None:
        send: Callable[[], None]
        if self._how == REKEYING:
            send = self._conn._send_kexinit
        else:
            kind, payload = KEYED[self._how]
            if self._how == "a login and then requests":
                self._conn.send_packet(MSG_USERAUTH_SUCCESS)
                self._conn._auth_complete = True

            def send() -> None:
                self._conn.send_packet(kind, payload)

        while not self._conn.is_closed():
            for _ in range(1 if self._how == REKEYING else 500):
                send()
            await asyncio.sleep(0)
            while self._is_busy():  # noqa: ASYNC110 - asyncssh has no Event for it
                await asyncio.sleep(0.001)

    def _is_busy(self) -> bool:
        """Tell whether the last packets are still on their way, or the last key exchange."""
        if self._conn.is_closed():
            return False
        transport = self._conn._transport
        full = transport is not None and transport.get_write_buffer_size() > 65536
        return full or not self._conn._kex_complete


async def raw(how: str, writer: asyncio.StreamWriter) -> None:
    print("connection", flush=True)
    first, again = RAW[how]
    with contextlib.suppress(ConnectionError):
        writer.write(first)
        while True:
            writer.write(again)
            await writer.drain()


async def main(key: str, how: str) -> None:
    if how in RAW:
        server = await asyncio.start_server(lambda _, writer: raw(how, writer), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
    else:
        acceptor = await asyncssh.listen("127.0.0.1", 0, server_factory=lambda: Server(how), server_host_keys=[key])
        port = acceptor.get_port()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
