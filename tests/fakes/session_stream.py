"""The stream of sessions of a scripted controller: a snapshot, then what the test sends."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING

from broker.schema.watch import EVENT_STREAM, HEARTBEAT_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable
    from http.server import BaseHTTPRequestHandler

    from broker.schema.sessions import SessionView


class SessionStream:
    """Streams to one client at a time: the next request ends the stream before. `begun` counts the streams."""

    def __init__(self) -> None:
        self.begun: queue.Queue[str] = queue.Queue()
        """The path of each request."""
        self._events: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._number = 0

    def change(self, *changed: SessionView, removed: Iterable[str] = ()) -> None:
        """Send a change."""
        self._number += 1
        ids = ",".join(f'"{each}"' for each in removed)
        self._send(_event("change", f"b-{self._number}", f'"changed":[{_join(changed)}],"removed":[{ids}]'))

    def end(self) -> None:
        """End the stream, as a controller that stops."""
        self._send(None)

    def serve(self, handler: BaseHTTPRequestHandler, sessions: Iterable[SessionView]) -> None:
        """Answer one request."""
        handler.send_response(200)
        handler.send_header("Content-Type", EVENT_STREAM)
        handler.send_header(HEARTBEAT_HEADER, "15")
        handler.end_headers()
        events = self._take_over()
        event: str | None = _event("sessions", f"b-{self._number}", f'"sessions":[{_join(sessions)}]')
        self.begun.put(handler.path)
        while event is not None:
            handler.wfile.write(event.encode())
            handler.wfile.flush()
            event = events.get()

    def _send(self, event: str | None) -> None:
        with self._lock:
            self._events.put(event)

    def _take_over(self) -> queue.SimpleQueue[str | None]:
        """Return a queue with the events that no request has taken, and end the request that waits at the old one."""
        with self._lock:
            former, self._events = self._events, queue.SimpleQueue()
            with contextlib.suppress(queue.Empty):
                while True:
                    self._events.put(former.get_nowait())
            former.put(None)
            return self._events


def _join(views: Iterable[SessionView]) -> str:
    return ",".join(view.model_dump_json() for view in views)


def _event(kind: str, revision: str, fields: str) -> str:
    return f'event: {kind}\nid: {revision}\ndata: {{"revision":"{revision}",{fields}}}\n\n'
