"""Watch the caller's sessions: read the event stream of `GET /v1/sessions/watch` as typed events.

The calls block, so that a program runs them in a thread.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlencode

from broker.client.answers import invalid_response
from broker.client.http import send_request, unavailable_error
from broker.client.records import load_compact, make_record
from broker.errors import BerthError
from broker.schema.watch import (
    CHANGE_EVENT,
    EVENT_STREAM,
    HEARTBEAT_HEADER,
    SNAPSHOT_EVENT,
    WATCH_PATH,
    SessionsChange,
    SessionsSnapshot,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from broker.schema.sessions import SessionView
    from broker.schema.watch import SessionsEvent

LOST_AFTER_HEARTBEATS = 3
"""Heartbeat intervals without a byte after which the stream counts as lost."""


class SessionWatch:
    """An iterator over the events of one stream, which begins with a snapshot unless `since` can be resumed.

    The constructor connects; it raises the controller's refusal, or ControllerUnavailableError without a controller.
    The iteration ends after `close`. It raises ControllerUnavailableError if the controller ends the stream or sends
    nothing for three heartbeat intervals: then make another one with the last event's revision as `since`.
    """

    def __init__(self, api_socket: Path, since: str | None = None) -> None:
        self._api_socket = api_socket
        query = "" if since is None else "?" + urlencode({"since": since})
        request = send_request(api_socket, "GET", WATCH_PATH + query, accept=EVENT_STREAM)
        self._connection, self._stream, headers = request.stream()
        self._closed = False
        self._reading = threading.Lock()
        """Held during a call of `__next__`."""
        try:
            self._connection.settimeout(LOST_AFTER_HEARTBEATS * _heartbeat(headers))
        except BerthError:
            self._close_connection()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration, also one that waits in another thread. Repeating this is harmless."""
        self._closed = True
        with contextlib.suppress(OSError):  # the controller has closed the connection
            self._connection.shutdown(socket.SHUT_RDWR)
        if self._reading.acquire(blocking=False):  # else the reader closes it
            self._close_connection()
            self._reading.release()

    def __iter__(self) -> Iterator[SessionsEvent]:
        return self

    def __next__(self) -> SessionsEvent:
        with self._reading:
            try:
                event = self._next_event()
            except (OSError, ValueError) as error:
                event = None
                if not self._closed:
                    self._close_connection()
                    raise unavailable_error(self._api_socket, error) from error
            if event is None:
                self._close_connection()
                raise StopIteration
            return event

    def _next_event(self) -> SessionsEvent | None:
        """Return the next event; None after `close`."""
        while not self._closed:
            event = _parse_event(self._read_block())
            if event is not None:
                return event
        return None

    def _read_block(self) -> list[bytes]:
        """Return the lines up to the next empty line; ValueError at the end of the stream."""
        lines = []
        while (line := self._stream.readline()) != b"\n":
            if not line.endswith(b"\n"):
                raise ValueError("it has ended the stream of changes")
            lines.append(line)
        return lines

    def _close_connection(self) -> None:
        self._stream.close()
        self._connection.close()


def _heartbeat(headers: Mapping[str, str]) -> float:
    """Return the seconds between two heartbeats."""
    try:
        return float(headers[HEARTBEAT_HEADER.lower()])
    except (LookupError, ValueError) as error:
        raise invalid_response() from error


def _parse_event(lines: list[bytes]) -> SessionsEvent | None:
    """Return the event in these lines; None for a heartbeat, and for an event of a later version."""
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        fields[name] = value[value.startswith(b" ") : -1]
    kind = fields.get(b"event", b"").decode()
    if kind not in {SNAPSHOT_EVENT, CHANGE_EVENT}:
        return None
    try:
        data = load_compact(fields.get(b"data", b""))
        revision = data["revision"]
        if kind == SNAPSHOT_EVENT:
            return SessionsSnapshot(revision, _views(data["sessions"]))
        return SessionsChange(revision, _views(data["changed"]), data["removed"])
    except (ValueError, LookupError, TypeError) as error:
        raise invalid_response() from error


def _views(records: list[Any]) -> list[SessionView]:
    return cast("list[SessionView]", [make_record(fields) for fields in records])
