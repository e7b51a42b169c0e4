"""A proxy in front of a registry that misbehaves as a test asks it to."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES = 65536
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server", "host"}


class Exchange:
    """One request at the proxy. A fault answers it, forwards it, or leaves it to be forwarded unchanged."""

    def __init__(self, handler: BaseHTTPRequestHandler, target: int) -> None:
        self.handler = handler
        self.method = handler.command
        self.path = handler.path
        self.headers = handler.headers
        self._target = target
        self._body: bytes | None = None

    @property
    def length(self) -> int:
        """The bytes of the request's body."""
        return int(self.headers.get("Content-Length", 0))

    def read(self) -> bytes:
        """Return the body of the request; it can be forwarded or answered after that."""
        if self._body is None:
            self._body = self.handler.rfile.read(self.length)
        return self._body

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bool:
        """Answer instead of the registry. The body of the request is read and dropped."""
        left = 0 if self._body is not None else self.length
        while left and (piece := self.handler.rfile.read(min(PIECE_BYTES, left))):
            left -= len(piece)
        self.handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.handler.send_header(name, value)
        self.handler.end_headers()
        if self.method != "HEAD":
            self.handler.wfile.write(body)
        return True

    def forward(
        self,
        *,
        cut_request: int | None = None,
        cut_answer: int | None = None,
        change: Callable[[bytes], bytes] = lambda piece: piece,
        drop_answer: bool = False,
    ) -> bool:
        """Pass the request on and the answer back, at most `cut_request` and `cut_answer` bytes of their bodies.

        After a cut, and after an answer that is dropped, the connection is closed.
        """
        registry = http.client.HTTPConnection("127.0.0.1", self._target, timeout=60)
        try:
            self._send(registry, cut_request)
            if cut_request is not None and cut_request < self.length:
                self.handler.close_connection = True
                return True
            answer = registry.getresponse()
            if drop_answer:
                self.handler.close_connection = True
                return True
            self.handler.send_response(answer.status)
            own = self.handler.headers.get("Host", "")
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.handler.send_header(name, value.replace(f"127.0.0.1:{self._target}", own))
            if (length := answer.getheader("Content-Length")) is not None:
                self.handler.send_header("Content-Length", length)
            elif answer.status != 204:
                self.handler.close_connection = True
                self.handler.send_header("Connection", "close")
            self.handler.end_headers()
            self._return(answer, cut_answer, change)
        finally:
            registry.close()
        return True

    def _send(self, registry: http.client.HTTPConnection, cut: int | None) -> None:
        registry.putrequest(self.method, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            registry.putheader(name, value)
        registry.endheaders()
        if self._body is not None:
            registry.send(self._body)
            return
        left = self.length if cut is None else min(cut, self.length)
        while left and (piece := self.handler.rfile.read(min(PIECE_BYTES, left))):
            registry.send(piece)
            left -= len(piece)

    def _return(self, answer: http.client.HTTPResponse, cut: int | None, change: Callable[[bytes], bytes]) -> None:
        sent = 0
        while piece := answer.read(PIECE_BYTES if cut is None else min(PIECE_BYTES, cut - sent)):
            self.handler.wfile.write(change(piece))
            sent += len(piece)
        if cut is not None:
            self.handler.close_connection = True


Fault = Callable[[Exchange], bool]
"""Returns whether it has answered the request."""


class FaultyRegistry:
    """The proxy: `port` is where it listens, `requests` what came, `METHOD path`; `authorized` what had a login."""

    def __init__(self, target: int, fault: Fault) -> None:
        self.requests: list[str] = []
        self.authorized: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                exchange = Exchange(self, target)
                line = f"{exchange.method} {exchange.path}"
                proxy.requests.append(line)
                if self.headers.get("Authorization"):
                    proxy.authorized.append(line)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # clients may leave at any time
                    if not fault(exchange):
                        exchange.forward()

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - as http.server names them

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server names it
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def faulty_registry(target: int, fault: Fault = lambda _: False) -> Iterator[FaultyRegistry]:
    """Run a proxy in front of the registry at `target`."""
    proxy = FaultyRegistry(target, fault)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
