"""systemd's side of Type=notify, and journald's of its native protocol, on sockets of a test's own."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class Datagrams:
    """A socket that datagrams come to, as that in $NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def next(self) -> str:
        """Wait for one message."""
        return self._socket.recv(1 << 20).decode()

    def waiting(self) -> list[str]:
        """Take what has come by now."""
        found = []
        self._socket.setblocking(False)
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            return found
        finally:
            self._socket.settimeout(DEADLINE_S)


def fields_of(entry: bytes) -> dict[str, str]:
    """Read an entry of the journal's native protocol."""
    found = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            entry = rest
        else:
            length = int.from_bytes(rest[:8], "little")
            name, value, entry = line, rest[8 : 8 + length], rest[9 + length :]
        found[name.decode()] = value.decode()
    return found
