"""A relay for TCP in user space that delays each direction, stalls at random, and records each piece of data.

It stands for a slow link where the kernel has no netem. The order of the data never changes.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import random
    from types import TracebackType

UP, DOWN = "up", "down"
"""The directions: to the server, and to the client."""
PIECE_BYTES = 65536
STALL_SHARE, LONGEST_STALL_S = 0.2, 0.6
"""The share of the pieces after which the link stalls, and the longest time for which it does."""


@dataclass(frozen=True, slots=True)
class RelayedPiece:
    """Data that one read has returned, when it came to the relay."""

    direction: str
    at: float
    """time.monotonic()."""
    size: int


class DelayingRelay:
    """Listens on a free port of 127.0.0.1, and leads each connection to `target_port`.

    `delay_s` is for each direction. With `stalls`, the link sometimes stops for a random time, in one direction.
    """

    def __init__(self, target_port: int, *, delay_s: float, stalls: random.Random | None = None) -> None:
        self._target_port = target_port
        self._delay_s = delay_s
        self._stalls = stalls
        self._lock = threading.Lock()
        self._pieces: list[RelayedPiece] = []
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def pieces(self, direction: str, since: float = 0.0) -> list[RelayedPiece]:
        """Return what has come from one side since a time of time.monotonic()."""
        with self._lock:
            return [piece for piece in self._pieces if piece.direction == direction and piece.at >= since]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target_port))
                self._connections += [client, server]
                self._relay(UP, client, server)
                self._relay(DOWN, server, client)

    def _relay(self, direction: str, source: socket.socket, target: socket.socket) -> None:
        waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        for work in (
            lambda: self._receive(direction, source, waiting),
            lambda: self._send(target, waiting),
        ):
            threading.Thread(target=work, daemon=True).start()

    def _receive(self, direction: str, source: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        while True:
            try:
                data = source.recv(PIECE_BYTES)
            except OSError:
                data = b""
            now = time.monotonic()
            with self._lock:
                self._pieces.append(RelayedPiece(direction, now, len(data)))
                stall = self._next_stall()
            waiting.put((now + self._delay_s + stall, data))
            if not data:
                return

    def _next_stall(self) -> float:
        if self._stalls is None or self._stalls.random() >= STALL_SHARE:
            return 0.0
        return self._stalls.uniform(0, LONGEST_STALL_S)

    @staticmethod
    def _send(target: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        """Send each piece when it is due, and the end of the data. A stalled piece delays those behind it."""
        while True:
            due, data = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):  # the other side has gone
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
