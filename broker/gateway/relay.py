"""One forwarded connection: bytes between an ssh channel and a TCP connection, with back pressure both ways."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Literal, cast

import asyncssh

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_TIMEOUT = 10.0
"""Seconds for the TCP handshake with a compute node of the same site."""

KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 3))
"""A compute node that vanished without a word is noticed within a minute (tcp(7); docs/security.md, F13)."""

AT_ONCE = 65536
"""Bytes that are taken from a session in one turn of the loop."""

_buffer = memoryview(bytearray(AT_ONCE))
"""Shared by all: between a read and `buffer_updated` nothing else runs."""

PauseReason = Literal["not open yet", "channel full", "connection full"]


class Relay(asyncssh.SSHTCPSession[bytes]):
    """The ssh side of one forward, and the owner of its TCP side.

    Each side's end of file is passed on by itself, so that one direction may go on after the other has ended; the
    forward ends when both have, or when either side closes. `finished` is called exactly once, with how it ended.
    """

    def __init__(self, finished: Callable[[Relay, str], None]) -> None:
        self.sent = 0
        """Bytes from the client to the session."""
        self.received = 0
        """Bytes from the session to the client."""
        self._finished: Callable[[Relay, str], None] | None = finished
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._upstream: asyncio.Transport | None = None
        self._paused: set[PauseReason] = {"not open yet"}
        self._client_done = False
        self._session_done = False

    @property
    def over(self) -> bool:
        """Whether it has ended already."""
        return self._finished is None

    async def connect(self, host: str, port: int) -> None:
        """Open the TCP side; OSError (TimeoutError is one) when nobody answers. Close it if no channel follows."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await loop.create_connection(lambda: _Upstream(self), host, port)

    def close(self) -> None:
        """End the forward now; what is on its way may be lost."""
        if self._channel is not None:
            self._channel.close()
        if self._upstream is not None:
            self._upstream.abort()

    def pause(self, reason: PauseReason) -> None:
        """Read no more from the session until every reason to pause is gone."""
        self._paused.add(reason)
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume(self, reason: PauseReason) -> None:
        self._paused.discard(reason)
        if self._upstream is not None and not self._paused:
            self._upstream.resume_reading()

    # The ssh side; asyncssh calls these.

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._channel = chan

    def session_started(self) -> None:
        self.resume("not open yet")

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:  # noqa: ARG002 - TCP has one kind
        self.sent += len(data)
        if self._upstream is not None:
            self._upstream.write(data)

    def eof_received(self) -> bool:
        self._client_done = True
        if self._upstream is not None:
            if self._session_done:
                self._upstream.close()
            else:
                self._upstream.write_eof()
        return True

    def pause_writing(self) -> None:
        self.pause("channel full")

    def resume_writing(self) -> None:
        self.resume("channel full")

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel = None
        self._end("client lost" if exc else "closed")

    # The TCP side; _Upstream calls these.

    def upstream_made(self, transport: asyncio.Transport) -> None:
        self._upstream = transport
        # The session's sshd speaks first, and may do so before there is a channel that could take it.
        transport.pause_reading()

    def upstream_data(self, data: bytes) -> None:
        self.received += len(data)
        if self._channel is not None:
            with contextlib.suppress(BrokenPipeError):  # the channel is being closed
                self._channel.write(data)

    def upstream_eof(self) -> bool:
        self._session_done = True
        if self._channel is not None:
            self._channel.write_eof()
        return not self._client_done

    def upstream_lost(self, exc: Exception | None) -> None:
        self._upstream = None
        self._end("session lost" if exc else "closed")

    def upstream_full(self, *, full: bool) -> None:
        if self._channel is None:
            return
        if full:
            self._channel.pause_reading()
        else:
            self._channel.resume_reading()

    def _end(self, how: str) -> None:
        """Close what is still open; both close() calls let buffered data go out first."""
        if self._channel is not None:
            self._channel.close()
        if self._upstream is not None:
            self._upstream.close()
        finished, self._finished = self._finished, None
        if finished is not None:
            finished(self, how)


class _Upstream(asyncio.BufferedProtocol):
    """The TCP connection to a session's sshd. asyncio sets TCP_NODELAY by itself."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self._relay.upstream_made(cast("asyncio.Transport", transport))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's wish is four times as much
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._relay.upstream_data(bytes(_buffer[:nbytes]))

    def eof_received(self) -> bool:
        return self._relay.upstream_eof()

    def pause_writing(self) -> None:
        self._relay.upstream_full(full=True)

    def resume_writing(self) -> None:
        self._relay.upstream_full(full=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.upstream_lost(exc)
