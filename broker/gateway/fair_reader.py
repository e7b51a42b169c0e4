"""Pass the input of a client to asyncssh in small pieces, so that other clients do not wait for long.

asyncssh processes all its input in one iteration of the event loop: a quarter of a megabyte of tiny packets, which
asyncio may read at once, takes 0.16 s. So the pieces are small until the client has logged in. Later they are as large
as asyncssh processes in a few milliseconds. In each iteration, all clients before their login share one time slice of a
few milliseconds, and the connections of one user share another. The size of a login is bounded.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

from broker.gateway.admission import Failure
from broker.gateway.counters import OTHER

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncssh

    from broker.gateway.admission import LoginThrottle
    from broker.gateway.counters import Counters
    from broker.gateway.relay import PauseReason

LOGIN_BYTES = 128 * 1024
"""The limit for a client before its login. 40 offers of RSA certificates, the most that there can be, are 80 KiB."""
SMALL_PIECE_BYTES = 1024
"""Bytes at once before the login: 64 of the smallest packets, which take asyncssh 2 ms."""
LARGE_PIECE_BYTES = 65536
"""Bytes at once of a logged-in client: two of OpenSSH's largest packets."""
UNSENT_BYTES = 512 * 1024
"""Bytes to a client that the kernel takes before it can send them (tcp(7), TCP_NOTSENT_LOWAT). Without this limit it
takes megabytes for a client that does not read. A lower limit costs the gateway more processor time in a download."""
MAX_UNREAD_BYTES = 256 * 1024
"""Data that a logged-in client leaves unread before the gateway reads nothing more from it. Its sessions have been
paused long before, so the data are answers to its own requests."""
SLICE_S = 0.005
"""Seconds of one iteration of the loop that one client should take at most; all those without a login share them."""
USER_SLICE_S = 0.02
"""Seconds that all connections of one logged-in user should take of one iteration of the loop: four that upload fast
take less, 128 with tiny packets would take more than half a second."""

_buffer = memoryview(bytearray(LARGE_PIECE_BYTES))
"""Shared by all: between a read and `buffer_updated` nothing else runs."""


class PreAuthQueue:
    """The pieces of all connections that are not logged in, which share one time slice."""

    def __init__(self) -> None:
        self._pieces: deque[Callable[[], None]] = deque()

    def add(self, deal: Callable[[], None]) -> None:
        """Process a piece after all earlier ones. The pieces of one client keep their order."""
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._run_slice)
        self._pieces.append(deal)

    def _run_slice(self) -> None:
        end = time.perf_counter() + SLICE_S
        while self._pieces:
            self._pieces.popleft()()
            if time.perf_counter() >= end:
                break
        if self._pieces:
            asyncio.get_running_loop().call_soon(self._run_slice)


class UserTimeSlice:
    """The time slice that all connections of one logged-in user share in an iteration of the event loop."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._pieces: deque[Callable[[], None]] = deque()
        self._ends = False

    @property
    def is_used_up(self) -> bool:
        """Whether the user has to wait for the next iteration."""
        return bool(self._pieces) or self._spent >= USER_SLICE_S

    def add(self, deal: Callable[[], None]) -> None:
        """Process a piece in one of the next iterations."""
        self._pieces.append(deal)
        self._end_soon()

    def spend(self, seconds: float) -> None:
        """Count the time that a piece took."""
        self._spent += seconds
        self._end_soon()

    def _end_soon(self) -> None:
        if not self._ends:
            self._ends = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._ends = False
        self._spent = 0.0
        while self._pieces and self._spent < USER_SLICE_S:
            self._pieces.popleft()()
        if self._pieces:
            self._end_soon()


class ConnectionOwner(Protocol):
    """The owner of an asyncssh connection, as the inlet sees it."""

    on_login: Callable[[], None]
    """Called once, when the user has logged in."""

    def pause(self, reason: PauseReason) -> None:
        """Stop reading from the sessions until no reason to pause remains."""

    def resume(self, reason: PauseReason) -> None:
        """Remove a reason to pause."""

    def failure(self) -> Failure | None:
        """Return why the client has not logged in."""


class FairReader(asyncio.BufferedProtocol):
    """One TCP connection of a client, in front of asyncssh's connection."""

    def __init__(
        self,
        connection: asyncssh.SSHServerConnection,
        source: str,
        *,
        throttle: LoginThrottle,
        logins: PreAuthQueue,
        slice_of: Callable[[str], UserTimeSlice],
        counts: Counters,
    ) -> None:
        self.source = source
        self._connection = connection
        self._throttle = throttle
        self._logins = logins
        self._slice_of = slice_of
        self._slice = UserTimeSlice()
        self._counts = counts
        self._waiting = True
        self._received = 0
        self._unread = False
        """Whether the client leaves so much unread that the gateway does not read from it."""
        self._held = False
        """Whether its next piece waits for its user's time slice."""
        self._unheard = 0
        """Pieces that asyncssh has not received yet."""
        self._size = SMALL_PIECE_BYTES
        self._failure: Failure | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._connection.connection_made(transport)
        self._client = cast("ConnectionOwner", self._connection.get_owner())
        self._client.on_login = self._login_ended
        self._throttle.enter(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's wish is the whole buffer
        return _buffer[: self._size]

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(_buffer[:nbytes])
        if self._waiting or self._unheard:
            self._begin(data)
        elif self._slice.is_used_up:
            self._held = True
            self._transport.pause_reading()
            self._slice.add(lambda: self._go_on_later(data))
        else:
            self._go_on(data)

    def eof_received(self) -> None:
        self._connection.eof_received()

    def pause_writing(self) -> None:
        self._client.pause("connection full")

    def resume_writing(self) -> None:
        self._client.resume("connection full")
        self._unread = False
        self._read_again()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
        if self._waiting:
            failure = self._failure or self._client.failure()
            self._counts.count("logins", OTHER if failure is None else failure.name.lower())
            self._throttle.leave(self, failure)
        else:
            self._throttle.remove_connection(self.source)

    # LoginThrottle calls these.

    def has_unread(self) -> bool:
        return bool(struct.unpack("i", fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, bytes(4)))[0])

    def drop(self) -> None:
        self._failure = Failure.NO_ATTEMPT
        self._transport.abort()

    def _begin(self, data: bytes) -> None:
        # Before the login ssh(1) follows Nagle's algorithm: its next packet waits for the acknowledgement of the last
        # one, which the kernel delays by up to 40 ms. That happens twice in a login, unless the gateway sets
        # TCP_QUICKACK each time (tcp(7)).
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if self._transport.is_closing():
            return
        self._received += len(data)
        if self._received > LOGIN_BYTES:
            self._failure = Failure.ABUSE
            self._transport.abort()
            return
        self._throttle.record_data(self, self._received)
        self._unheard += 1
        self._logins.add(lambda: self._hear(data))

    def _hear(self, data: bytes) -> None:
        self._unheard -= 1
        if not self._transport.is_closing():
            self._connection.data_received(data)

    def _go_on(self, data: bytes) -> None:
        began = time.perf_counter()
        self._connection.data_received(data)
        took = time.perf_counter() - began
        self._slice.spend(took)
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self._unread = True
            self._transport.pause_reading()
        self._size = (
            max(self._size // 2, SMALL_PIECE_BYTES) if took > SLICE_S else min(2 * self._size, LARGE_PIECE_BYTES)
        )

    def _go_on_later(self, data: bytes) -> None:
        self._held = False
        if not self._transport.is_closing():
            self._go_on(data)
            self._read_again()

    def _read_again(self) -> None:
        if not self._unread and not self._held:
            self._transport.resume_reading()

    def _login_ended(self) -> None:
        self._waiting = False
        self._slice = self._slice_of(self._connection.get_extra_info("username"))
        self._counts.count("logins", "accepted")
        self._throttle.leave(self)
        self._throttle.add_connection(self.source)
