"""A TCP server of some user: it echoes what it gets, answers `GET` with its user id, and notes every byte in a file."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER_UID = 65432
"""A user who is not the session's owner. Only root can run a server as this user."""
LAST_WORDS = b"the client has finished"
"""The answer of the server to the client's end of file."""


@dataclass(slots=True)
class PortServer:
    """A running server: what it has got so far."""

    port: int
    got: Path

    @property
    def connections(self) -> int:
        """Connections that the server has accepted."""
        return len(self.got.with_suffix(".accepted").read_bytes())


@contextlib.contextmanager
def port_server(got: Path, host: str = "127.0.0.1", port: int = 0, uid: int | None = None) -> Iterator[PortServer]:
    """Run a server on a port, or on a free one, as some user or as the test's own."""
    for file in (got, got.with_suffix(".accepted")):
        file.write_bytes(b"")
        file.chmod(0o666)
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        files = [os.open(file, os.O_WRONLY | os.O_APPEND) for file in (got, got.with_suffix(".accepted"))]
        descriptors = [listener.fileno(), *files]
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid is not None else []
        process = subprocess.Popen(
            [*user, sys.executable, __file__, *map(str, descriptors)],
            stdin=subprocess.DEVNULL, pass_fds=descriptors, env={"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        bound = listener.getsockname()[1]
        for each in files:
            os.close(each)
    try:
        yield PortServer(bound, got)
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def _serve(connection: socket.socket, got: int) -> None:
    with connection:
        while data := connection.recv(65536):
            os.write(got, data)
            if data.startswith(b"GET "):
                body = f"served by {os.getuid()}\n".encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                return
            connection.sendall(data)
        connection.sendall(LAST_WORDS)


def _main(listening: int, got: int, accepted: int) -> None:
    listener = socket.socket(fileno=listening)
    while True:
        connection, _ = listener.accept()
        os.write(accepted, b"+")
        threading.Thread(target=_serve, args=[connection, got], daemon=True).start()


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
