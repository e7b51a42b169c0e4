"""A browser without a window, which a user runs on the login node: it logs in by a link and opens services.

    web_visitor.py open SESSION SERVICE…     print host and cookie of each, as JSON
    web_visitor.py transfer SESSION SERVICE MEGABYTES     upload so much to /upload, download it from /bytes

Standard library only.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import pwd
import socket
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

API_SOCKET = "/run/berth/api.sock"
DOMAIN, PORT = "berth.localhost", 8080
PORTAL = f"portal.{DOMAIN}"
TIMEOUT_S = 60.0
OPEN_S = 60.0
"""Time for a service to become ready."""
PIECE = bytes(1 << 20)
NAVIGATION = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class VisitError(Exception):
    """berth-web or the controller has answered something else than was expected."""


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(API_SOCKET)


class WebVisitor:
    """One browser of the account that runs this program."""

    def __init__(self, port: int = PORT) -> None:
        self.port = port
        self.delegation_id = ""
        self._portal_cookie = ""

    def log_in(self) -> None:
        """Log in by a link."""
        before = {each["id"] for each in self.api("GET", "/v1/web/browsers")["browsers"]}
        proof = self.api("POST", "/v1/web/links", {})["url"].partition("#")[2]
        origin = f"http://{PORTAL}:{self.port}"
        headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin", "Content-Type": _FORM}
        answer = self.request(PORTAL, "POST", "/login", headers, urlencode({"proof": proof, "next": "/"}).encode())
        self._portal_cookie = _cookie(answer, "__Host-Http-berth-portal")
        after = {each["id"] for each in self.api("GET", "/v1/web/browsers")["browsers"]}
        (self.delegation_id,) = after - before

    def log_out(self) -> None:
        """Log this browser out at the controller, as `berth browsers --logout` does."""
        if not self.api("DELETE", f"/v1/web/browsers/{self.delegation_id}")["closed"]:
            raise VisitError("berth-web has not confirmed the logout")

    def enter(self, session: str, service: str) -> tuple[str, str]:
        """Open a service and wait until it answers. Return its host and the cookie."""
        host = f"{service}--{session}--{pwd.getpwuid(os.getuid()).pw_name}.{DOMAIN}"
        first = self.request(host, "GET", "/", NAVIGATION)
        entry = _cookie(first, "__Host-Http-berth-entry")
        portal = {"Cookie": f"__Host-Http-berth-portal={self._portal_cookie}"}
        lead = self.request(PORTAL, "GET", _path(first), NAVIGATION | portal)
        back = {"Cookie": f"__Host-Http-berth-entry={entry}"}
        cookie = _cookie(self.request(host, "GET", _path(lead), NAVIGATION | back), "__Host-Http-berth")
        deadline = time.monotonic() + OPEN_S
        own = {"Cookie": f"__Host-Http-berth={cookie}"}
        while (answer := self.request(host, "GET", "/", NAVIGATION | own)).status != http.HTTPStatus.OK:
            if time.monotonic() > deadline:
                raise VisitError(f"{service} does not open: {answer.status}")
            time.sleep(0.02)
        return host, cookie

    def websocket(self, host: str, cookie: str) -> socket.socket:
        """Open a WebSocket at /ws."""
        connection = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /ws HTTP/1.1",
            f"Host: {host}:{self.port}",
            f"Origin: http://{host}:{self.port}",
            f"Cookie: __Host-Http-berth={cookie}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            some = connection.recv(1)  # what follows belongs to the caller
            if not some:
                raise VisitError(f"no WebSocket: {head!r}")
            head += some
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise VisitError(f"no WebSocket: {head!r}")
        return connection

    def request(
        self, host: str, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> http.client.HTTPResponse:
        """Send a request on a connection of its own; the answer, read to its end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, {"Host": f"{host}:{self.port}"} | dict(headers))
            answer = connection.getresponse()
            answer.read()
            return answer
        finally:
            connection.close()

    def upload(self, host: str, cookie: str, count: int) -> None:
        """Send so many MiB to /upload."""
        connection = self._transferring(host, cookie, "POST", "/upload", {"Content-Length": str(count * len(PIECE))})
        for _ in range(count):
            connection.send(PIECE)
        answer = connection.getresponse()
        if answer.read() != b"%d" % (count * len(PIECE)):
            raise VisitError(f"the upload is not whole: {answer.status}")
        connection.close()

    def download(self, host: str, cookie: str, count: int) -> None:
        """Read so many MiB from /bytes."""
        connection = self._transferring(host, cookie, "GET", f"/bytes?{count * len(PIECE)}", {})
        answer, read = connection.getresponse(), 0
        while some := answer.read(len(PIECE)):
            read += len(some)
        if read != count * len(PIECE):
            raise VisitError(f"the download is not whole: {answer.status}, {read} bytes")
        connection.close()

    def _transferring(
        self, host: str, cookie: str, method: str, path: str, headers: Mapping[str, str]
    ) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        connection.putrequest(method, path, skip_host=True)
        own = {"Host": f"{host}:{self.port}", "Cookie": f"__Host-Http-berth={cookie}", "Sec-Fetch-Site": "same-origin"}
        for name, value in (own | dict(headers)).items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - JSON
        """Call the controller as this program's account."""
        connection = _UnixConnection("localhost")
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise VisitError(f"{method} {path}: {text!r}")
        return json.loads(text)


_FORM = "application/x-www-form-urlencoded"


def _cookie(answer: http.client.HTTPResponse, name: str) -> str:
    for line in answer.headers.get_all("Set-Cookie", []):
        key, _, rest = line.partition("=")
        if key == name:
            return rest.partition(";")[0].strip('"')
    raise VisitError(f"no cookie {name} in an answer with status {answer.status}")


def _path(answer: http.client.HTTPResponse) -> str:
    parts = urlsplit(answer.headers.get("Location", ""))
    return f"{parts.path}?{parts.query}"


def main(command: str, session: str, *words: str) -> None:
    visitor = WebVisitor()
    visitor.log_in()
    if command == "open":
        print(json.dumps({service: visitor.enter(session, service) for service in words}))
    else:
        service, count = words
        host, cookie = visitor.enter(session, service)
        print("entered", flush=True)
        sys.stdin.readline()
        visitor.upload(host, cookie, int(count))
        visitor.download(host, cookie, int(count))
        print("transferred", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
