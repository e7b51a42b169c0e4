"""Send one HTTP/1.0 request to the controller over its Unix socket. The response ends with the connection.

The standard library's HTTP client loads modules for e-mail and TLS, which takes longer than most responses.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from typing import TYPE_CHECKING

from broker.errors import BerthError, ControllerUnavailableError, from_reason

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 60.0
"""Time without a byte after which a request fails; a waiting call adds its waiting time."""

QUEUE_TIMEOUT_S = 15.0
"""Time to wait while more clients connect than the controller accepts."""
QUEUE_RETRY_S = 0.02


class PendingResponse:
    """A request that was sent; the caller may do other work before it reads the response."""

    def __init__(self, connection: socket.socket, api_socket: Path) -> None:
        self._connection = connection
        self._api_socket = api_socket

    def answer(self) -> bytes:
        """Return the response's body. Raise its error, or ControllerUnavailableError without a response."""
        try:
            with self._connection as connection:
                status, body = _split(b"".join(iter(lambda: connection.recv(65536), b"")))
        except (OSError, ValueError) as error:
            raise _unavailable(self._api_socket, error) from error
        if status >= 400:
            raise _failure(body, status)
        return body


def send_request(
    api_socket: Path, method: str, path: str, body: str | None = None, *, extra_time: float = 0
) -> PendingResponse:
    """Send a request, with JSON as its body; ControllerUnavailableError if no controller accepts it."""
    content = (body or "").encode()
    head = f"{method} {path} HTTP/1.0\r\nHost: controller\r\nContent-Length: {len(content)}\r\n"
    if content:
        head += "Content-Type: application/json\r\n"
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(TIMEOUT_S + extra_time)
        _connect(connection, str(api_socket))
        with contextlib.suppress(BrokenPipeError):  # the controller has already responded with a refusal
            connection.sendall(head.encode() + b"\r\n" + content)
    except OSError as error:
        connection.close()
        raise _unavailable(api_socket, error) from error
    return PendingResponse(connection, api_socket)


def _connect(connection: socket.socket, path: str) -> None:
    """Connect, and wait for a place in the controller's queue: a socket with a timeout gets EAGAIN if it is full."""
    deadline = time.monotonic() + QUEUE_TIMEOUT_S
    while True:
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(QUEUE_RETRY_S)


def _split(answer: bytes) -> tuple[int, bytes]:
    """Return status and body; ValueError if the data is not a complete HTTP response."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if status is None or (length is not None and int(length[1]) != len(body)):
        raise ValueError("the response is truncated" if answer else "it closed the connection")
    return int(status[1]), body


def _failure(body: bytes, status: int) -> BerthError:
    try:
        fields = json.loads(body)
        return from_reason(str(fields["reason"]), str(fields["message"]), str(fields["hint"]))
    except (ValueError, LookupError, TypeError):
        return BerthError(f"the controller responded with status {status}", hint="the controller's log has the cause")


def _unavailable(api_socket: Path, error: Exception) -> ControllerUnavailableError:
    return ControllerUnavailableError(
        f"the controller does not answer at {api_socket}: {error}",
        hint="`berth doctor` shows the cause; running sessions are not affected",
    )
