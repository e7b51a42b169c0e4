"""`berth connect NAME`: the way in through the site's own sshd, as `ProxyCommand ssh login berth connect %h`.

It runs once per ssh connection, so it must start fast: the standard library only, and nothing of Berth that loads
pydantic or an HTTP stack.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

from broker import wire
from broker.errors import BerthError, ControllerUnavailableError, WaitingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONNECT_TIMEOUT = 10.0
"""Seconds for the TCP handshake with a compute node."""

CHUNK = 256 * 1024
"""Bytes read at once."""


class Destination(NamedTuple):
    """Where a session's sshd listens."""

    host: str
    port: int


def resolve(api_socket: Path, user: str, target: str, tell: Callable[[str], None]) -> Destination:
    """Ask the controller where the session that `user` means by `target` listens; raises what it refuses with.

    While it is on its way it is waited for, as long as it takes; `tell` is called with how far it is whenever that
    changes.
    """
    question = json.dumps({"user": user, "target": target, "patient": True})
    told = ""
    while True:
        try:
            answer = wire.ask(api_socket, "POST", "/v1/resolve", question).answer()
            break
        except WaitingError as error:
            if error.message != told:
                told = error.message
                tell(told)
    try:
        found = json.loads(answer)  # a schema.ResolveAnswer, without loading what checks all of it
        return Destination(str(found["host"]), int(found["port"]))
    except (ValueError, LookupError, TypeError) as error:
        raise ControllerUnavailableError(
            "the controller's answer makes no sense", hint="`berth doctor` says what is missing"
        ) from error


def relay(destination: Destination, stdin: int = 0, stdout: int = 1) -> None:
    """Copy between the two file descriptors and a TCP connection until both directions have ended.

    An end of file is passed on in its own direction, the other one goes on. Both descriptors are blocking and stay open
    except `stdout`, which is closed to say that nothing more comes. BerthError when nobody answers there.
    """
    try:
        connection = socket.create_connection(destination, CONNECT_TIMEOUT)
    except OSError as error:
        raise BerthError(
            f"the session does not answer on {destination.host}", hint="it may be just ending: `berth show` tells"
        ) from error
    with connection:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        upward = threading.Thread(target=_send, args=(stdin, connection), daemon=True)
        upward.start()
        if _receive(connection, stdout):
            upward.join()


def _send(source: int, connection: socket.socket) -> None:
    # A connection that broke ends this direction; _receive notices the same from its side.
    with contextlib.suppress(OSError):
        while data := os.read(source, CHUNK):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def _receive(connection: socket.socket, sink: int) -> bool:
    """Copy until the end of file; False when either side broke, so that nothing more could arrive there."""
    try:
        while data := connection.recv(CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(sink, view) :]
    except OSError:
        return False
    finally:
        os.close(sink)
    return True
