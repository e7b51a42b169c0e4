"""The listening socket: accept or refuse a connection before it costs anything.

asyncio's server creates a transport for each connection first, and drops a connection that it has just accepted when it
is closed (asyncio.Server.close, Python 3.11). A gateway that passes its port on must not drop any.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from typing import TYPE_CHECKING

from broker.gateway.admission import source_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.gateway.admission import LoginThrottle
    from broker.gateway.counters import Counters

BACKLOG = 4096
"""Connections in the kernel's queue while the gateway is busy; a class of students logs in within one second."""
MAX_ACCEPTS_PER_ITERATION = 32
"""Connections that the gateway accepts in one iteration of the event loop."""
ACCEPT_PAUSE_S = 1.0
"""Pause of accepting connections after file descriptors or memory have run out."""
LOG_INTERVAL_S = 10.0
"""Time between two log lines about refused connections; a flood must not fill the log."""

OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
REFUSAL_LINE = b"Not allowed at this time\r\n"
"""The line that sshd sends in place of its version, and that ssh(1) shows."""

_log = logging.getLogger(__name__)


def bind_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet, beside others at the same address (socket(7), SO_REUSEPORT)."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """Accepts connections for as long as it is open; `protocol(source)` makes each one's protocol."""

    def __init__(
        self,
        sock: socket.socket,
        throttle: LoginThrottle,
        counts: Counters,
        protocol: Callable[[str], asyncio.BaseProtocol],
    ) -> None:
        self._socket = sock
        self._throttle = throttle
        self._counts = counts
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[object]] = set()
        self._turned_away = 0
        self._resume: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock, self._accept)

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return int(self._socket.getsockname()[1])

    async def close(self) -> None:
        """Stop accepting connections. On return, all accepted ones have their protocol."""
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if self._arriving:
            await asyncio.wait(self._arriving)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS_PER_ITERATION):
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                if error.errno not in OUT_OF_RESOURCES:
                    raise
                self._pause(error)
                return
            source = source_of(address[0])
            if self._throttle.refuses(source):
                self._refuse(sock, source)
                continue
            sock.setblocking(False)
            task = self._loop.create_task(self._arrive(sock, source))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _arrive(self, sock: socket.socket, source: str) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._protocol(source), sock)
        except OSError:
            sock.close()  # it has left already

    def _refuse(self, sock: socket.socket, source: str) -> None:
        with sock:
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.send(REFUSAL_LINE)
        if not self._turned_away:
            _log.warning("event=turned-away source=%s penalty=%.0f", source, self._throttle.refuses(source))
            self._loop.call_later(LOG_INTERVAL_S, self._sum_up)
        self._turned_away += 1
        self._counts.count("turned_away")

    def _sum_up(self) -> None:
        if self._turned_away > 1:
            _log.warning("event=turned-away count=%d seconds=%g", self._turned_away, LOG_INTERVAL_S)
        self._turned_away = 0

    def _pause(self, error: OSError) -> None:
        _log.error("accept paused seconds=%g error=%s", ACCEPT_PAUSE_S, error)
        self._loop.remove_reader(self._socket)
        self._resume = self._loop.call_later(ACCEPT_PAUSE_S, self._loop.add_reader, self._socket, self._accept)
