"""`berth connect NAME`: a connection through the site's sshd, for ProxyCommand.

Its use in ssh_config(5) is `ProxyCommand ssh login berth connect %h`. It runs once per ssh connection, so it must start
fast: the standard library only, and nothing of Berth that loads pydantic or an HTTP stack.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from broker.client import http
from broker.errors import BerthError, ControllerUnavailableError, WaitingError
from broker.names import new_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK_BYTES = 256 * 1024

REPORT_INTERVAL_S = 60.0
"""Time between two reports about an open connection to the controller, as for gateways."""

REPORT_TIMEOUT_S = 3.0
"""Time for the controller to accept a report; then it is dropped."""


class Destination(NamedTuple):
    """A session and the endpoint of its sshd."""

    host: str
    port: int
    session_id: str
    generation: str


@dataclass
class Traffic:
    """The bytes of a connection, and the cause of its end."""

    sent: int = 0
    received: int = 0
    end: str = "closed"


def resolve_target(api_socket: Path, user: str, target: str, tell: Callable[[str], None]) -> Destination:
    """Return the endpoint of the session `target` of `user`, when it is ready. Raises the controller's refusal.

    `tell` is called with the session's state whenever it changes.
    """
    shown = ""
    while True:
        question = json.dumps({"user": user, "target": target, "patient": True, "shown": shown})
        try:
            answer = http.send_request(api_socket, "POST", "/v1/resolve", question).answer()
            break
        except WaitingError as error:
            if error.message != shown:
                shown = error.message
                tell(shown)
    try:
        body = json.loads(answer)  # a schema.ResolveAnswer, without the time to load pydantic
        return Destination(str(body["host"]), int(body["port"]), str(body["session_id"]), str(body["generation"]))
    except (ValueError, LookupError, TypeError) as error:
        raise ControllerUnavailableError(
            "invalid response from the controller", hint="`berth doctor` shows the cause"
        ) from error


def relay_and_report(
    api_socket: Path, user: str, destination: Destination, stdin: int = 0, stdout: int = 1, *, answer_timeout: float
) -> None:
    """Relay the connection, and report it to the controller if that answers. Raises as `relay`."""
    record = {
        "id": new_id(),
        "user": user,
        "peer": client_address(),
        "session_id": destination.session_id,
        "generation": destination.generation,
        "began_at": time.time(),
    }

    over = threading.Event()

    def tell(traffic: Traffic) -> None:
        _note(api_socket, record)
        while not over.wait(REPORT_INTERVAL_S):
            _note(api_socket, record | {"sent": traffic.sent, "received": traffic.received})

    def on_connected(traffic: Traffic) -> None:
        threading.Thread(target=tell, args=(traffic,), daemon=True).start()

    traffic = relay(destination, stdin, stdout, answer_timeout=answer_timeout, on_connected=on_connected)
    over.set()
    _note(api_socket, record | vars(traffic) | {"ended_at": time.time()})


def client_address() -> str:
    """Return the client's address and port, from the login node's sshd (sshd(8), SSH_CONNECTION)."""
    address, _, rest = os.environ.get("SSH_CONNECTION", "").partition(" ")
    return f"{address}:{rest.partition(' ')[0]}" if rest else ""


def _note(api_socket: Path, record: dict[str, object]) -> None:
    report = json.dumps({"connections": [record]})  # a schema.ConnectionReport
    with contextlib.suppress(BerthError):
        http.send_request(
            api_socket, "POST", "/v1/connections", report, extra_time=REPORT_TIMEOUT_S - http.TIMEOUT_S
        ).answer()


def relay(
    destination: Destination,
    stdin: int = 0,
    stdout: int = 1,
    *,
    answer_timeout: float,
    on_connected: Callable[[Traffic], None] = lambda _: None,
) -> Traffic:
    """Copy between the two file descriptors and a TCP connection until both directions have ended.

    An end of file is forwarded; the other direction continues. Both descriptors are blocking. `stdout` is closed at the
    end of its data. BerthError if the session does not accept within `answer_timeout` seconds; otherwise
    `on_connected` is called, with the counts that grow from then on.
    """
    try:
        connection = socket.create_connection((destination.host, destination.port), answer_timeout)
    except OSError as error:
        raise BerthError(
            f"the session does not answer on {destination.host}",
            hint="it may be ending; `berth show NAME` shows its state",
        ) from error
    traffic = Traffic()
    on_connected(traffic)
    with connection:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        upward = threading.Thread(target=_send, args=(stdin, connection, traffic), daemon=True)
        upward.start()
        if _receive(connection, stdout, traffic):
            upward.join()
    return traffic


def _send(source: int, connection: socket.socket, traffic: Traffic) -> None:
    # A connection that broke ends this direction; _receive notices the same from its side.
    with contextlib.suppress(OSError):
        while data := os.read(source, CHUNK_BYTES):
            connection.sendall(data)
            traffic.sent += len(data)
        connection.shutdown(socket.SHUT_WR)


def _receive(connection: socket.socket, sink: int, traffic: Traffic) -> bool:
    """Copy until the end of file; False when either side broke, so that nothing more could arrive there."""
    broken = "session lost"
    try:
        while data := connection.recv(CHUNK_BYTES):
            view = memoryview(data)
            broken = "client lost"
            while view:
                view = view[os.write(sink, view) :]
            broken = "session lost"
            traffic.received += len(data)
    except OSError:
        traffic.end = broken
        return False
    finally:
        os.close(sink)
    return True
