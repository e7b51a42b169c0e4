"""The input of a guard, passed to asyncssh in small pieces, and no more than a guard needs.

Behind a session's endpoint may be any program of its owner's. To stand, a guard needs a key exchange and a few short
packets, and one small packet for each answer. A server that sends more is left alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from broker.gateway.fair_reader import SMALL_PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncssh

    from broker.gateway.fair_reader import PreAuthQueue

STAND_BYTES, STAND_PACKETS = 16 * 1024, 24
"""The most that a server may send before its guard stands. OpenSSH sends some 3 KiB in 7 packets, and perhaps a banner.
asyncssh deals with 16 KiB of the smallest packets in 30 ms, in pieces of 2 ms."""
ANSWER_BYTES, ANSWER_PACKETS = 64, 1
"""The most that it may send besides for each answer that the gateway asks for."""

_buffer = memoryview(bytearray(SMALL_PIECE_BYTES))
"""Shared by all: between a read and `buffer_updated` nothing else runs."""


class GuardInlet(asyncio.BufferedProtocol):
    """The TCP connection of a guard, in front of asyncssh's connection."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, queue: PreAuthQueue, flooded: Callable[[], None]
    ) -> None:
        """`flooded` is called when the server has sent too much; the connection has been ended then."""
        self.bytes = 0
        self.packets = 0
        self._connection = connection
        self._queue = queue
        self._flooded = flooded
        self._most_bytes, self._most_packets = STAND_BYTES, STAND_PACKETS

    def allow_answer(self) -> None:
        """Let the server send one more answer."""
        self._most_bytes += ANSWER_BYTES
        self._most_packets += ANSWER_PACKETS

    def count_packet(self) -> bool:
        """Count one packet, and tell whether it may be dealt with."""
        self.packets += 1
        return self._check()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connection.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's wish is the whole buffer
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes += nbytes
        if self._check():
            data = bytes(_buffer[:nbytes])
            self._queue.add(lambda: self._hear(data))

    def eof_received(self) -> bool:
        """Keep the connection until what came before the end has been dealt with."""
        self._queue.add(self._connection.eof_received)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._queue.add(lambda: self._connection.connection_lost(exc))

    def refuse(self) -> None:
        """End the connection at once; what it has sent is not dealt with any more."""
        self._transport.abort()
        self._flooded()

    def _hear(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._connection.data_received(data)

    def _check(self) -> bool:
        if self._transport.is_closing():
            return False
        if self.bytes <= self._most_bytes and self.packets <= self._most_packets:
            return True
        self.refuse()
        return False
