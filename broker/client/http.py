"""Send one HTTP/1.0 request to the controller over its Unix socket. The response ends with the connection.

The standard library's HTTP client loads modules for e-mail and TLS, which takes longer than most responses.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from typing import TYPE_CHECKING, BinaryIO, cast

from broker.errors import BerthError, ControllerUnavailableError, from_reason

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 60.0
"""Time without a byte after which a request fails; a waiting call adds its waiting time."""

QUEUE_TIMEOUT_S = 15.0
"""Time to wait while more clients connect than the controller accepts."""
QUEUE_RETRY_S = 0.02

RECEIVE_BYTES = 1 << 18
"""Buffer of a stream, more than the kernel's: each read waits for Python's lock while another thread loads modules."""

_TRUNCATED = "the response is truncated"

_READS = ("/v1/resolve", "/v1/connections")
"""Paths of requests that change nothing for the user, whatever their method."""

changes: list[str] = []
"""Paths of this process's requests that may have changed something."""


def requested_changes() -> list[str]:
    """Return the paths of the requests that may have changed something, without queries, the oldest first."""
    return list(dict.fromkeys(path.partition("?")[0] for path in changes))


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
            raise unavailable_error(self._api_socket, error) from error
        if status >= 400:
            raise _failure(body, status)
        return body

    def stream(self) -> tuple[socket.socket, BinaryIO, dict[str, str]]:
        """Return the connection of a response without an end, its unread body and its headers, in lower case.

        Raise the response's error, or ControllerUnavailableError without a response. The caller closes the connection.
        """
        with contextlib.ExitStack() as opened:
            opened.enter_context(self._connection)
            body = cast("BinaryIO", opened.enter_context(self._connection.makefile("rb", RECEIVE_BYTES)))
            try:
                status = _status(body.readline())
                headers = _headers(body)
                content = body.read() if status >= 400 else b""
            except (OSError, ValueError) as error:
                raise unavailable_error(self._api_socket, error) from error
            if status >= 400:
                raise _failure(content, status)
            opened.pop_all()
            return self._connection, body, headers


def send_request(
    api_socket: Path,
    method: str,
    path: str,
    body: str | None = None,
    *,
    extra_time: float = 0,
    accept: str = "application/json",
) -> PendingResponse:
    """Send a request, with JSON as its body; ControllerUnavailableError if no controller accepts it."""
    content = (body or "").encode()
    head = f"{method} {path} HTTP/1.0\r\nHost: controller\r\nAccept: {accept}\r\nContent-Length: {len(content)}\r\n"
    if content:
        head += "Content-Type: application/json\r\n"
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(TIMEOUT_S + extra_time)
        _connect(connection, str(api_socket))
        if method != "GET" and path not in _READS:
            changes.append(path)
        with contextlib.suppress(BrokenPipeError):  # the controller has already responded with a refusal
            connection.sendall(head.encode() + b"\r\n" + content)
    except OSError as error:
        connection.close()
        raise unavailable_error(api_socket, error) from error
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
    status = _status(head)
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if length is not None and int(length[1]) != len(body):
        raise ValueError(_TRUNCATED)
    return status, body


def _status(head: bytes) -> int:
    """Return the status in the head of a response; ValueError if it has none."""
    status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    if status is None:
        raise ValueError(_TRUNCATED if head else "it closed the connection")
    return int(status[1])


def _headers(stream: BinaryIO) -> dict[str, str]:
    """Read the headers of a response."""
    headers = {}
    while (line := stream.readline()) != b"\r\n":
        if not line.endswith(b"\n"):
            raise ValueError(_TRUNCATED)
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return headers


def _failure(body: bytes, status: int) -> BerthError:
    try:
        fields = json.loads(body)
        return from_reason(str(fields["reason"]), str(fields["message"]), str(fields["hint"]))
    except (ValueError, LookupError, TypeError):
        return BerthError(f"the controller responded with status {status}", hint="the controller's log has the cause")


def unavailable_error(api_socket: Path, error: Exception) -> ControllerUnavailableError:
    """Return the error of a request to that socket that got no complete response."""
    return ControllerUnavailableError(
        f"the controller does not answer at {api_socket}: {error}",
        hint="`berth doctor` shows the cause; running sessions are not affected",
    )
