"""One forwarded connection: bytes between an ssh channel and a TCP connection, with back pressure both ways.

What a forward may hold in memory is bounded. The client may send as much as the channel's window, which is small at
first. It grows while the session takes what it gets, as far as the user's allowance reaches, and shrinks again. In the
other direction nothing is read from the session while the client does not take what it was sent (ADR 101).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Literal, cast

import asyncssh

from broker.gateway.channel import FIRST_WINDOW_BYTES, Channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.gateway.usage import Allowance

KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 3))
"""A compute node that vanished without a word is noticed within a minute (tcp(7); docs/security.md, F13)."""

READ_BYTES = 65536
"""Bytes that are taken from a session in one iteration of the loop."""

MAX_WINDOW_BYTES = 2 * 1024 * 1024
"""The window of OpenSSH: 40 MB/s from a client that is 50 ms away."""
QUICK_S = 1.0
"""Seconds in which a client uses up half of its window for the window to grow. A round trip must take less, or the
window never grows: by satellite it takes 0.6 s."""
BUFFER_BYTES = 32 * 1024
"""Data of one side that the other has not taken, before nothing more is read. One read may exceed the limit."""
UNSENT_BYTES = 128 * 1024
"""Bytes to a session that the kernel takes before it can send them (tcp(7), TCP_NOTSENT_LOWAT); else megabytes."""
LINGER_S = 30.0
"""Seconds for a session to read what is left for it when its client has gone."""

_buffer = memoryview(bytearray(READ_BYTES))
"""Shared by all: between a read and `buffer_updated` nothing else runs."""

PauseReason = Literal["not open yet", "channel full", "connection full", "key exchange"]


class Relay(asyncssh.SSHTCPSession[bytes]):
    """The ssh side of one forward, and the owner of its TCP side.

    Each side's end of file is passed on by itself, so that one direction may continue after the other has ended. The
    forward ends when both have, or when either side closes. `finished` is called exactly once, with how it ended, and
    `gone` exactly once, when neither side holds anything any more.
    """

    def __init__(
        self,
        finished: Callable[[Relay, str], None],
        gone: Callable[[Relay], None],
        allowance: Allowance,
    ) -> None:
        self.sent = 0
        """Bytes from the client to the session."""
        self.received = 0
        """Bytes from the session to the client."""
        self._finished: Callable[[Relay, str], None] | None = finished
        self._gone: Callable[[Relay], None] | None = gone
        self._allowance = allowance
        """The allowance of the windows of the user's forwards beyond their first size."""
        self._channel: Channel | None = None
        self._upstream: asyncio.Transport | None = None
        self._paused: set[PauseReason] = {"not open yet"}
        self._client_done = False
        self._session_done = False
        self._session_full = False
        self._waiting = bytearray()
        """Data that the client has sent while the session was full: one piece, however many packets it came in."""
        self._window = FIRST_WINDOW_BYTES
        """At most this much is on its way from the client, or waits here."""
        self._opened = 0.0
        self._linger: asyncio.TimerHandle | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended already."""
        return self._finished is None

    async def connect(self, host: str, port: int, seconds: float) -> None:
        """Open the TCP side within `seconds`; OSError, such as TimeoutError, if no server answers. Close it if no
        channel follows.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
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
        self._channel = cast("Channel", chan)
        self._channel.set_write_buffer_limits(BUFFER_BYTES)
        self._opened = time.monotonic()

    def session_started(self) -> None:
        self.resume("not open yet")

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:  # noqa: ARG002 - TCP has one kind
        self.sent += len(data)
        if self._session_full:
            self._waiting += data
        elif self._upstream is not None:
            self._upstream.write(data)
            self._open_window()

    def eof_received(self) -> bool:
        self._client_done = True
        if self._upstream is not None:
            if self._session_done:
                self._close_upstream()
            else:
                self._write_waiting()
                self._upstream.write_eof()
        return True

    def pause_writing(self) -> None:
        self.pause("channel full")

    def resume_writing(self) -> None:
        self.resume("channel full")

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel = None
        self._end("client lost" if exc else "closed")
        self._check_gone()

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
        if self._client_done:
            self._close_upstream()
        return not self._client_done

    def upstream_lost(self, exc: Exception | None) -> None:
        self._upstream = None
        self._waiting.clear()
        if self._linger is not None:
            self._linger.cancel()
        self._end("session lost" if exc else "closed")
        self._check_gone()

    def upstream_full(self, *, full: bool) -> None:
        self._session_full = full
        if not full:
            self._write_waiting()
            self._open_window()

    def _write_waiting(self) -> None:
        if self._waiting and self._upstream is not None:
            waiting, self._waiting = self._waiting, bytearray()
            self._upstream.write(waiting)

    def _open_window(self) -> None:
        """Let the client send more, once it has used half of its window and the session takes what it gets."""
        if self._channel is None or self._session_full or self._channel.window > self._window // 2:
            return
        now = time.monotonic()
        if now - self._opened < QUICK_S:
            if self._window < MAX_WINDOW_BYTES and self._allowance.take(self._window):
                self._window *= 2
        elif self._window > FIRST_WINDOW_BYTES:
            self._window //= 2
            self._allowance.give_back(self._window)
        self._opened = now
        self._channel.open_window(self._window)

    def _end(self, how: str) -> None:
        """Close what is still open; both close() calls let buffered data go out first."""
        if self._channel is not None:
            self._channel.close()
        self._close_upstream()
        finished, self._finished = self._finished, None
        if finished is not None:
            finished(self, how)

    def _close_upstream(self) -> None:
        """Close the TCP side once the session has read what is left for it, which it may never do."""
        if self._upstream is not None and not self._upstream.is_closing():
            self._write_waiting()
            self._upstream.close()
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self._upstream.abort)

    def _check_gone(self) -> None:
        if self._channel is None and self._upstream is None and self._gone is not None:
            gone, self._gone = self._gone, None
            self._allowance.give_back(self._window - FIRST_WINDOW_BYTES)
            gone(self)


class _Upstream(asyncio.BufferedProtocol):
    """The TCP connection to a session's sshd. asyncio sets TCP_NODELAY by itself."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        upstream = cast("asyncio.Transport", transport)
        upstream.set_write_buffer_limits(BUFFER_BYTES)
        self._relay.upstream_made(upstream)

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
