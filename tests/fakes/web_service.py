"""A web service on the Unix socket `$BERTH_SOCKET`: it answers each request with its process id and the request.

`/bytes?N` has N bytes, and `/upload` answers with the number of bytes that it got.
"""

from __future__ import annotations

import os
import socketserver
import sys
from http.server import BaseHTTPRequestHandler

_PIECE = bytes(1 << 20)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/end":
            os._exit(0)
        if self.path == "/crash":
            os._exit(7)
        if self.path.startswith("/bytes?"):
            self._send_bytes(int(self.path.partition("?")[2]))
            return
        body = f"{os.getpid()} {self.headers['Host']} {self.path}\n".encode()
        self._answer(body)

    def do_POST(self) -> None:
        count, length = 0, int(self.headers["Content-Length"])
        while some := self.rfile.read(min(length - count, len(_PIECE))):
            count += len(some)
        self._answer(b"%d" % count)

    def _send_bytes(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(count))
        self.end_headers()
        while count > 0:
            self.wfile.write(_PIECE[:count])
            count -= len(_PIECE)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the class calls it
        del format, args


if __name__ == "__main__":
    sys.stdout.write("the service listens\n")
    sys.stdout.flush()
    _Server(os.environ["BERTH_SOCKET"], _Handler).serve_forever()
