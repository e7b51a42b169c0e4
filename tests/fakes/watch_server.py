"""A controller with sessions that never run: the calls that the terminal interface makes, on a real Unix socket.

Run as `python -m tests.fakes.watch_server SOCKET COUNT`, it is a process that a test can kill, stop and restart. Each
line `NAME STATE` on its standard input changes a session. Its answers are checked against the real controller's on the
lab. Requests that are not GET get no answer; they are listed in the file `requests` beside the socket.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING, Any

from tests.fakes.tui_feed import make_view

if TYPE_CHECKING:
    from collections.abc import Iterator

HEARTBEAT_S = 0.5
STATES = ("ready", "queued", "stopped", "failed", "ready", "starting")


def sample_views(count: int) -> list[dict[str, Any]]:
    """Return sessions in several states, named s00000, s00001 and so on."""
    return [
        make_view(
            f"s{number:05}", STATES[number % len(STATES)], reason="" if number % 2 == 0 else "Resources"
        ).model_dump(mode="json")
        for number in range(count)
    ]


class WatchServer(ThreadingMixIn, UnixStreamServer):
    """Serves `GET /v1/sessions/watch`, `/v1/sessions`, `/v1/site` and `/v1/health`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, socket: Path, count: int) -> None:
        self.views = {view["id"]: view for view in sample_views(count)}
        self.watchers: list[queue.SimpleQueue[dict[str, Any]]] = []
        self._requests = socket.with_name("requests")
        socket.unlink(missing_ok=True)
        super().__init__(str(socket), _Handler)

    def change(self, name: str, state: str) -> None:
        view = self.views[f"id-{name}"] | make_view(name, state).model_dump(mode="json")
        view["revision"] += 1
        self.views[view["id"]] = view
        for watcher in self.watchers:
            watcher.put(view)

    def note_request(self, line: str) -> None:
        with self._requests.open("a") as file:
            file.write(f"{line}\n")


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is the base class's
        """Print nothing."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/v1/sessions/watch":
            self._watch()
        elif path == "/v1/sessions":
            self._answer({"sessions": list(self.server.views.values())})
        else:
            self._answer({"domain": "berth", "profile_stores": []})

    def do_POST(self) -> None:
        """Note the request, and do not answer."""
        self.server.note_request(f"{self.command} {self.path}")
        threading.Event().wait()

    do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815 - the base class's names

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _watch(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Berth-Heartbeat", str(HEARTBEAT_S))
        self.end_headers()
        changes: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.server.watchers.append(changes)
        try:
            for block in self._blocks(changes):
                self.wfile.write(block)
        except OSError:  # the watcher has left
            self.server.watchers.remove(changes)

    def _blocks(self, changes: queue.SimpleQueue[dict[str, Any]]) -> Iterator[bytes]:
        yield _event("sessions", {"revision": "a.0", "sessions": list(self.server.views.values())})
        while True:
            try:
                view = changes.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                yield b": heartbeat\n\n"
            else:
                yield _event("change", {"revision": f"a.{view['revision']}", "changed": [view], "removed": []})


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def main() -> None:
    """Serve until the process is killed."""
    server = WatchServer(Path(sys.argv[1]), int(sys.argv[2]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.write(1, b"ready\n")
    for line in sys.stdin:
        server.change(*line.split())
    threading.Event().wait()


if __name__ == "__main__":
    main()
