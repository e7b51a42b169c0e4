"""The proxy that leads the lab's sessions to package registries, with servers on this machine's loopback."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from slurm.lab.registry_proxy import (
    MAX_HEAD_BYTES,
    ProxyRefusalError,
    ProxyRequest,
    ProxyRoutes,
    RegistryProxy,
    is_of_machine,
    is_without_proxy,
)
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator


class Registry(BaseHTTPRequestHandler):
    """Answers with what it was asked, and with the headers that only a proxy should see."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hop = [name for name in self.headers if name.lower().startswith("proxy-")]
        text = f"{self.path} {self.headers['Connection']} {hop}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass


@pytest.fixture
def registry() -> Iterator[int]:
    """The port of a registry."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def proxy(routes: ProxyRoutes) -> Iterator[int]:
    """The port of a proxy with these routes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=RegistryProxy(routes).serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


def routes(*named: str, upstream: dict[str, str] | None = None, no_proxy: str = "") -> ProxyRoutes:
    return ProxyRoutes(upstream or {}, no_proxy, named)


def talk(port: int, *parts: str) -> str:
    """Send each part after an answer to the one before; the rest of the answer."""
    with closing(socket.create_connection(("127.0.0.1", port), DEADLINE_S)) as connection:
        for part in parts[:-1]:
            connection.sendall(part.encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(parts[-1].encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer.decode()


def test_a_plain_request_reaches_the_server_as_a_request_to_it(registry: int) -> None:
    with proxy(routes(f"127.0.0.1:{registry}")) as port:
        answer = talk(
            port, f"GET http://127.0.0.1:{registry}/a?b HTTP/1.1\r\nHost: x\r\nProxy-Connection: keep\r\n\r\n"
        )
    assert answer.endswith("/a?b close []")


def test_a_tunnel_carries_bytes_both_ways(registry: int) -> None:
    with proxy(routes(f"127.0.0.1:{registry}")) as port:
        head = f"CONNECT 127.0.0.1:{registry} HTTP/1.1\r\n\r\n"
        answer = talk(port, head, "GET /inside HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.endswith("/inside close []")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_machines_own_proxy_is_the_next_on_the_way(registry: int, scheme: str) -> None:
    with proxy(routes(f"127.0.0.1:{registry}")) as second:
        first = routes(f"127.0.0.1:{registry}", upstream={scheme: f"http://127.0.0.1:{second}"})
        with proxy(first) as port:
            target = f"127.0.0.1:{registry}"
            head = f"CONNECT {target} HTTP/1.1\r\n\r\n"
            get = "GET /far HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            parts = (head, get) if scheme == "https" else (f"GET http://{target}/far HTTP/1.1\r\nHost: x\r\n\r\n",)
            assert talk(port, *parts).endswith("/far close []")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0"])  # noqa: S104 - refused
def test_the_machine_itself_is_refused(host: str) -> None:
    with proxy(routes()) as port:
        answer = talk(port, f"CONNECT {host}:443 HTTP/1.1\r\n\r\n")
    assert answer.startswith("HTTP/1.1 403 ")
    assert "this machine itself" in answer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "api.localhost"])
def test_the_machine_itself_is_refused_also_through_another_proxy(host: str, registry: int) -> None:
    with proxy(routes(upstream={"https": f"http://127.0.0.1:{registry}"})) as port:
        assert talk(port, f"CONNECT {host}:443 HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 403 ")


def test_other_ports_than_the_webs_are_refused(registry: int) -> None:
    with proxy(routes()) as port:
        answer = talk(port, f"CONNECT 127.0.0.1:{registry} HTTP/1.1\r\n\r\n")
    assert answer.startswith("HTTP/1.1 403 ")
    assert f"not port {registry}" in answer


@pytest.mark.parametrize("head", ["GET / HTTP/1.1", "nonsense", "CONNECT host:port HTTP/1.1", "GET ftp://a/ HTTP/1.1"])
def test_what_is_no_request_to_a_proxy_is_refused(head: str) -> None:
    with pytest.raises(ProxyRefusalError):
        ProxyRequest.parse(f"{head}\r\n\r\n".encode())


def test_a_head_without_end_is_not_kept() -> None:
    with proxy(routes()) as port, closing(socket.create_connection(("127.0.0.1", port), DEADLINE_S)) as connection:
        connection.sendall(b"a" * MAX_HEAD_BYTES)
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("169.254.169.254", True),
        ("::ffff:127.0.0.1", True),
        ("224.0.0.1", True),
        ("fe80::1%eth0", True),
        ("198.51.100.77", False),
    ],
)
def test_addresses_of_the_machine_and_its_link_are_known(address: str, own: bool) -> None:
    assert is_of_machine(address) is own


@pytest.mark.parametrize(
    ("no_proxy", "without"),
    [("", False), ("*", True), ("example.org", True), (".example.org,b", True), ("ple.org", False)],
)
def test_no_proxy_is_read_as_usual(no_proxy: str, without: bool) -> None:
    assert is_without_proxy("a.example.org", no_proxy) is without
