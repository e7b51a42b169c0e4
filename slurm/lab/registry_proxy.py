"""A proxy through which the lab's nodes reach package registries over HTTP and HTTPS, and nothing else of the machine.

It listens on the switch, in the lab's network, and connects from the machine's network: a thread chooses its own
network namespace. Nothing routes between the two networks. The proxy ends with the lab, like every process in the lab's
namespaces. It refuses addresses of the machine itself, unless the machine's own client settings name the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from slurm.lab import network, processes
from slurm.lab.commands import run_tool
from slurm.lab.errors import LabError
from slurm.lab.publish import CLONE_NEWNET, relay_streams

if TYPE_CHECKING:
    from slurm.lab.paths import LabPaths

SWITCH_ADDRESS = "10.77.0.1"
PROXY_PORT = 3128
PROXY_URL = f"http://{SWITCH_ADDRESS}:{PROXY_PORT}"
WEB_PORTS = (80, 443)

MAX_CONNECTIONS = 256
MAX_HEAD_BYTES = 1 << 16
HEAD_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 20
START_TIMEOUT_S = 60

_HOP_HEADERS = re.compile(rb"^(?:proxy-[a-z-]+|connection|keep-alive):.*\r\n", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ProxyRoutes:
    """The ways out: the machine's own proxies as URLs by scheme, and the `HOST:PORT` that its settings name."""

    upstream: dict[str, str]
    no_proxy: str
    named: tuple[str, ...]


class ProxyRefusalError(Exception):
    """The proxy does not serve this request; the text is for its client."""


def start_proxy(place: LabPaths, routes: ProxyRoutes) -> None:
    """Return once the proxy listens with these routes. One that runs already is ended first."""
    stop_proxy(place)
    run_tool(["ip", "-netns", place.netns(network.SWITCH), "addr", "replace", f"{SWITCH_ADDRESS}/24", "dev", "br0"])
    log = place.logs / "registry-proxy.log"
    namespace = str(network.NAMESPACES / place.netns(network.SWITCH))
    with log.open("a") as sink:  # routes by standard input: every user can read arguments
        started = subprocess.run(
            ["setsid", "--fork", sys.executable, "-m", "slurm.lab.registry_proxy", namespace],
            input=json.dumps(asdict(routes)), stdout=subprocess.PIPE, stderr=sink, cwd="/", text=True, check=False,
            timeout=START_TIMEOUT_S,
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]},
        )  # fmt: skip
    if not started.stdout.strip().isdecimal():
        raise LabError("the proxy to the package registries does not start", log=log)
    _record(place).write_text(started.stdout)


def stop_proxy(place: LabPaths) -> None:
    """End the proxy, if it runs."""
    with contextlib.suppress(FileNotFoundError):
        pid = int(_record(place).read_text())
        if pid in processes.lab_processes(place):
            os.kill(pid, signal.SIGKILL)
        _record(place).unlink()


def _record(place: LabPaths) -> Path:
    return place.state / "registry-proxy.pid"


class RegistryProxy:
    """Serves clients of a listener. Threads for clients enter the network namespace `outside` first, if it is given."""

    def __init__(self, routes: ProxyRoutes, outside: int | None = None) -> None:
        self._routes = routes
        self._outside = outside
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def serve(self, listener: socket.socket) -> None:
        """Serve until the listener is closed. A client above MAX_CONNECTIONS waits."""
        while True:
            self._places.acquire()
            try:
                client, _ = listener.accept()
            except OSError:
                self._places.release()
                if listener.fileno() == -1:
                    return
                continue
            threading.Thread(target=self._run, args=(client,), daemon=True).start()

    def _run(self, client: socket.socket) -> None:
        try:
            if self._outside is not None:
                enter_network(self._outside)
            self._handle(client)
        except OSError:
            client.close()
        finally:
            self._places.release()

    def _handle(self, client: socket.socket) -> None:
        client.settimeout(HEAD_TIMEOUT_S)
        head, rest = _read_head(client)
        try:
            request = ProxyRequest.parse(head)
            server, direct = self._open(request)
        except (ProxyRefusalError, OSError, UnicodeError) as error:
            status = "403 Forbidden" if isinstance(error, ProxyRefusalError) else "502 Bad Gateway"
            text = f"{error}\n".encode()
            client.sendall(
                f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text
            )
            client.close()
            return
        if request.tunnel and direct:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            server.sendall(rest)
        else:
            server.sendall((request.head_for_server() if direct else request.head_for_proxy()) + rest)
        relay_streams(client, server)

    def _open(self, request: ProxyRequest) -> tuple[socket.socket, bool]:
        """Connect to the server, or to the machine's own proxy: then the second value is False."""
        named = f"{request.host}:{request.port}" in self._routes.named
        if request.port not in WEB_PORTS and not named:
            raise ProxyRefusalError(f"the lab's proxy serves the ports of the web, not port {request.port}")
        upstream = self._routes.upstream.get("https" if request.tunnel else "http")
        if upstream and not is_without_proxy(request.host, self._routes.no_proxy):
            if not named and _is_literal_of_machine(request.host):
                raise ProxyRefusalError(f"the lab's proxy does not lead to {request.host}, this machine itself")
            url = urlsplit(upstream)
            assert url.hostname is not None
            return socket.create_connection((url.hostname, url.port or 80), CONNECT_TIMEOUT_S), False
        return _connect_outside(request.host, request.port, trusted=named), True


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """A request to a proxy: its first line and its other lines."""

    method: bytes
    target: str
    version: bytes
    headers: bytes
    host: str
    port: int

    @classmethod
    def parse(cls, head: bytes) -> ProxyRequest:
        """Read a head that ends with an empty line. ProxyRefusalError if it is not one for a proxy."""
        first, _, headers = head.partition(b"\r\n")
        try:
            method, target, version = first.decode("ascii").split(" ")
            url = urlsplit(f"//{target}" if method == "CONNECT" else target)
            host, port = url.hostname, url.port or 80
        except ValueError:
            raise ProxyRefusalError("this is not a request to a proxy") from None
        if not host or (url.scheme != ("" if method == "CONNECT" else "http")):
            raise ProxyRefusalError("this is not a request to a proxy")
        return cls(method.encode(), target, version.encode(), _HOP_HEADERS.sub(b"", headers), host, port)

    @property
    def tunnel(self) -> bool:
        return self.method == b"CONNECT"

    def head_for_server(self) -> bytes:
        """Return the head for the server itself. Each request has a connection of its own."""
        url = urlsplit(self.target)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        return self._head(path)

    def head_for_proxy(self) -> bytes:
        """Return the head for another proxy."""
        return self._head(self.target)

    def _head(self, target: str) -> bytes:
        close = b"" if self.tunnel else b"Connection: close\r\n"
        return b"%s %s %s\r\n%s%s" % (self.method, target.encode(), self.version, close, self.headers)


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    """Read up to the empty line. Return the head and what came after it. OSError if there is no end of it."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(MAX_HEAD_BYTES - len(data)) if len(data) < MAX_HEAD_BYTES else b""
        if not chunk:
            raise OSError("no complete request")
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _connect_outside(host: str, port: int, *, trusted: bool) -> socket.socket:
    """Connect to the first address of the host that answers. ProxyRefusalError if all are the machine's own."""
    found = [entry[4] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    allowed = [address for address in found if trusted or not is_of_machine(str(address[0]))]
    if not allowed:
        raise ProxyRefusalError(f"the lab's proxy does not lead to {host}, this machine itself")
    failure: OSError = OSError(f"{host} has no address")
    for address in allowed:
        try:
            return socket.create_connection((str(address[0]), port), CONNECT_TIMEOUT_S)
        except OSError as error:
            failure = error
    raise failure


def is_of_machine(address: str) -> bool:
    """Whether a connection to the address stays on this machine or on its link: loopback, its own, link-local."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if parsed.is_loopback or parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified:
        return True
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:  # only an address of the machine can be bound
        try:
            probe.bind((str(parsed), 0))
        except OSError:
            return False
    return True


def is_without_proxy(host: str, no_proxy: str) -> bool:
    """Whether the machine reaches the host without its proxy, by the usual reading of $no_proxy."""
    names = [name.strip().lstrip("*.").lower() for name in no_proxy.split(",")]
    return "*" in no_proxy.split(",") or any(name and (host == name or host.endswith(f".{name}")) for name in names)


def _is_literal_of_machine(host: str) -> bool:
    if host.rstrip(".") == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return is_of_machine(host)
    except ValueError:
        return False


def enter_network(handle: int) -> None:
    """Move the calling thread into the network namespace of this file descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def main(argv: list[str]) -> None:
    """Argument: the network namespace to listen in; on standard input the routes. Print the process id when ready."""
    given = json.load(sys.stdin)
    routes = ProxyRoutes(given["upstream"], given["no_proxy"], tuple(given["named"]))
    with Path("/proc/self/ns/net").open() as outside, Path(argv[0]).open() as inside:
        enter_network(inside.fileno())
        with socket.create_server((SWITCH_ADDRESS, PROXY_PORT), backlog=MAX_CONNECTIONS) as listener:
            os.write(1, f"{os.getpid()}\n".encode())
            os.close(1)
            RegistryProxy(routes, outside.fileno()).serve(listener)


if __name__ == "__main__":
    main(sys.argv[1:])
