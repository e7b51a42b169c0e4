"""The API's listening socket, with limits on the connections of each user.

A connection is refused right after accept(2), before anything is made for it. The answer is a small HTTP response, so
that a client can show why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pwd
import resource
from collections import Counter
from typing import TYPE_CHECKING, Self

from broker.controller.api.peer_credentials import Peer, no_account, peer_uid
from broker.controller.api.protocol import ApiProtocol
from broker.controller.metrics import CONNECTIONS_REFUSED
from broker.errors import ControllerUnavailableError, RefusedError, TooManyError
from broker.schema.base import ErrorBody

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from types import TracebackType

    import uvicorn

    from broker.controller.accounts import AccountCache
    from broker.errors import BerthError

CONNECTIONS = 256
"""Connections that one user may have open at once, each with one request at a time."""
TOTAL_CONNECTIONS = 4096
"""Connections of all users together, at some 20 KiB. Gateway, berth-web, root and the service account have their own
room."""
UNKNOWN_CONNECTIONS = 512
"""Connections of all uids whose account is being looked up."""
SUBORDINATE_CONNECTIONS = 64
"""The same for subordinate uids, of which one user can have thousands."""
WEB_CONNECTIONS = 1024
"""Connections of berth-web: one for each call and each stream of its browsers."""
GATEWAYS = 8
"""Gateways of a site that share one account: other login nodes reach the socket through its sshd. After a reload a
gateway counts twice, since its old workers finish while new ones serve."""
OTHER_FILES = 256
"""Descriptors that the controller needs for the registry, Slurm and the launcher."""
ACCEPTS_AT_ONCE = 64
"""Connections that are accepted in one iteration of the event loop; refusing so many takes a millisecond."""
BACKLOG = 4096
"""Connections that wait for accept(2): the default of net.core.somaxconn in Linux. More wait or fail."""
LOOKUP_TIMEOUT_S = 30.0
"""Time limit for looking up an account; then its connection is refused."""
UNREAD_BYTES = 64 * 1024
"""Bytes read from a refused client before the close: Linux resets a connection that is closed with unread data."""
PAUSE_S = 0.2
"""Time without accepting after the kernel had no descriptor or no memory for a connection."""

log = logging.getLogger(__name__)


_BUSY, _AGAIN = "the controller has no free connection", "try again in a moment"


class ConnectionRoom:
    """The number of connections of each uid, and its limit."""

    def __init__(self, reserved: Mapping[int, int], *, files: int | None = None) -> None:
        """`reserved`: connections of uids with their own limit. `files`: the limit of this process's descriptors."""
        self._reserved = dict(reserved)
        self._open: Counter[int] = Counter()
        self._shared = 0
        """Connections of uids without a reserve."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if files is None else files
        spare = limit - OTHER_FILES - sum(self._reserved.values())
        self._total = max(min(TOTAL_CONNECTIONS, spare), CONNECTIONS)

    def has_reserve(self, uid: int) -> bool:
        return uid in self._reserved

    def reserve(self, uid: int, connections: int) -> None:
        """Give a uid its own limit, if it has none."""
        if uid not in self._reserved:
            self._reserved[uid] = connections
            self._shared -= self._open[uid]

    def take(self, uid: int) -> BerthError | None:
        """Count one more connection; return the reason if there is no room for it.

        One user may have at most as many as are free, so that several users with many connections leave some free.
        """
        own = self._open[uid]
        if uid in self._reserved:
            most = self._reserved[uid]
        else:
            if self._total - self._shared <= own < CONNECTIONS:
                return ControllerUnavailableError(_BUSY, hint=_AGAIN)
            most = CONNECTIONS
        if own >= most:
            return TooManyError(
                f"limit of connections to the controller reached ({own} of {most})",
                hint="stop some of your programs that use Berth, or wait for their answers",
            )
        self._open[uid] += 1
        self._shared += uid not in self._reserved
        return None

    def release(self, uid: int) -> None:
        self._open[uid] -= 1
        self._shared -= uid not in self._reserved
        if not self._open[uid]:
            del self._open[uid]


class _Seat:
    """One counted connection, until its end."""

    def __init__(self, room: ConnectionRoom, uid: int) -> None:
        self._room = room
        self.uid = uid
        self._taken = True

    def leave(self) -> None:
        """Stop counting it. Repeating this is harmless."""
        if self._taken:
            self._taken = False
            self._room.release(self.uid)


class ApiListener:
    """The listening socket as an async context manager.

    Inside its block, connections are accepted; `server` serves those within the limits. At the end of the block the
    socket is closed; accepted connections continue.
    """

    def __init__(
        self,
        listener: socket.socket,
        server: uvicorn.Server,
        accounts: AccountCache,
        room: ConnectionRoom,
        *,
        services: Mapping[str, int] | None = None,
    ) -> None:
        """`services`: the numbers of connections of the accounts of gateway and berth-web."""
        self._listener = listener
        self._server = server
        self._accounts = accounts
        self._room = room
        self._services = services or {}
        self._unknown = {False: 0, True: 0}
        """Connections whose account is looked up, of ordinary and of subordinate uids."""
        self._beginnings: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._loop.add_reader(self._listener.fileno(), self._accept)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        await asyncio.sleep(0)  # each task has started then, and closes its connection
        for task in self._beginnings:
            task.cancel()
        await asyncio.gather(*self._beginnings, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor or no memory: the connection stays in the kernel's queue
                log.error("accept failed pause_s=%g error=%s", PAUSE_S, error)
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(PAUSE_S, self._accept_again)
                return
            connection.setblocking(False)
            self._serve_or_refuse(connection)

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _serve_or_refuse(self, connection: socket.socket) -> None:
        """Serve or refuse a connection, or have its account looked up first."""
        try:
            uid = peer_uid(connection)
        except OSError:
            connection.close()
            return
        reserved = self._room.has_reserve(uid)
        if not reserved and self._accounts.is_missing(uid):
            _refuse(connection, uid, RefusedError(no_account(uid)), "account")
            return
        queue = None
        if not reserved and not self._accounts.is_known(uid):
            queue = self._accounts.is_subordinate(uid)
            if self._unknown[queue] >= (SUBORDINATE_CONNECTIONS if queue else UNKNOWN_CONNECTIONS):
                _refuse(connection, uid, ControllerUnavailableError(_BUSY, hint=_AGAIN), "unknown")
                return
        refusal = self._room.take(uid)
        if refusal is not None:
            _refuse(connection, uid, refusal, "user" if isinstance(refusal, RefusedError) else "total")
            return
        seat = _Seat(self._room, uid)
        task = self._loop.create_task(self._begin(connection, seat, queue, reserved=reserved))
        if queue is not None:
            self._unknown[queue] += 1
        self._beginnings.add(task)
        task.add_done_callback(self._beginnings.discard)

    async def _begin(self, connection: socket.socket, seat: _Seat, queue: bool | None, *, reserved: bool) -> None:
        """Serve the connection, or refuse it."""
        served = False
        try:
            try:
                name = None if reserved else await self._name(seat.uid)
            finally:
                if queue is not None:
                    self._unknown[queue] -= 1
            if name is None and not reserved:
                _refuse(connection, seat.uid, RefusedError(no_account(seat.uid)), "account")
                return
            if name is not None and name in self._services:
                self._room.reserve(seat.uid, self._services[name])
            await self._loop.connect_accepted_socket(lambda: self._protocol(seat), connection)
            served = True
        except OSError as error:
            log.warning("connection not served uid=%d error=%s", seat.uid, error)
        finally:
            if not served:
                connection.close()
                seat.leave()

    async def _name(self, uid: int) -> str | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                return await self._accounts.name(uid)
        return None

    def _protocol(self, seat: _Seat) -> ApiProtocol:
        server = self._server
        return ApiProtocol(server.config, server.server_state, Peer(seat.uid, self._accounts), seat.leave)


def _refuse(connection: socket.socket, uid: int, error: BerthError, reason: str) -> None:
    """Send the error without waiting, and close the connection. `reason` is for metrics."""
    CONNECTIONS_REFUSED.labels(reason).inc()
    log.warning("connection refused uid=%d error=%s", uid, error.message)
    body = ErrorBody(reason=error.reason, message=error.message, hint=error.hint).model_dump_json().encode()
    head = (
        f"HTTP/1.1 {error.status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    with connection, contextlib.suppress(OSError):
        with contextlib.suppress(BlockingIOError):
            connection.recv(UNREAD_BYTES)
        connection.send(head.encode() + body)


def reserved_connections(own_uid: int, services: Mapping[str, int]) -> dict[int, int]:
    """Return the limits of root, of the controller's account and of `services` (limits by account)."""
    reserved = {0: CONNECTIONS, own_uid: CONNECTIONS}
    for account, connections in services.items():
        with contextlib.suppress(KeyError):  # an unknown account gets its limit once it is known
            uid = pwd.getpwnam(account).pw_uid
            reserved[uid] = max(connections, reserved.get(uid, 0))
    return reserved
