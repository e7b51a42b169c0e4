"""A web service on the Unix socket `$BERTH_SOCKET`: it answers each request with its process id and the request."""

from __future__ import annotations

import os
import socketserver
import sys
from http.server import BaseHTTPRequestHandler


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/end":
            os._exit(0)
        if self.path == "/crash":
            os._exit(7)
        body = f"{os.getpid()} {self.headers['Host']} {self.path}\n".encode()
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
