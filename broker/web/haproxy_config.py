"""The files that HAProxy reads when it starts: its configuration, and the map of grants."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.web.settings import WebProcessSettings

MAX_CONNECTIONS = 20_000
MAX_THREADS = 4
MAX_GRANT_REQUESTS = 200
"""Requests and WebSockets of one grant at once; others are refused with 429."""
MAX_IDLE_CONNECTIONS = 64
"""Connections of one grant to its service that wait for a further request."""
CLIENT_TIMEOUT_S = 60
"""As long as the kernel waits for a client that does not take what it is sent (`tcp-ut`)."""
_OTHER_FILES = 256
"""Descriptors that HAProxy needs beside those of connections."""
_TEMPLATE = Path(__file__).with_name("haproxy.cfg")

_ADDRESS_LIMIT = """
    # Of IPv6, a network of 64 bits is one address: each client has that many.
    stick-table type ipv6 size 100k expire 10m store conn_cur
    tcp-request connection track-sc0 src,ipmask(32,64)
    tcp-request connection reject if {{ sc0_conn_cur gt {limit} }}
"""

_FETCH_METADATA = """
    # Browsers of 2023 and later send it to origins with TLS. Of a WebSocket, the origin is known.
    http-request deny deny_status 403 if !has_site !is_upgrade
"""


@dataclass(frozen=True, slots=True)
class GrantRoute:
    """The way of one grant through HAProxy: an entry of the map, and a server of its own."""

    key: str
    """The SHA-256 of the cookie in hexadecimal, `@`, and the host."""
    server: str
    socket: Path

    @property
    def address(self) -> str:
        """The server's address and options. Weight 0: it is chosen by its name only.

        A server that is added while HAProxy runs has no delay of its own, and without one it keeps no idle connection:
        then each request opens a channel of ssh. The delay is below the time after which services close idle
        connections, as Node does after 5 s.
        """
        return f"unix@{self.socket} weight 0 pool-purge-delay 1s pool-max-conn {MAX_IDLE_CONNECTIONS}"


@dataclass(frozen=True, slots=True)
class HaproxyFiles:
    """The files in HAProxy's part of the runtime directory."""

    settings: WebProcessSettings

    @property
    def configuration(self) -> Path:
        return self.settings.directory / "haproxy.cfg"

    @property
    def map(self) -> Path:
        return self.settings.directory / "grants.map"

    @property
    def master_socket(self) -> Path:
        return self.settings.directory / "haproxy.sock"

    def write(self, routes: Iterable[GrantRoute]) -> None:
        """Write configuration and map with these routes, which a new HAProxy process then has from its beginning."""
        routes = list(routes)
        self.map.write_text("".join(f"{each.key} {each.server}\n" for each in routes), encoding="ascii")
        self.configuration.write_text(self._configuration(routes), encoding="ascii")

    def _configuration(self, routes: list[GrantRoute]) -> str:
        settings = self.settings
        port = "" if settings.origins.port is None else f":{settings.origins.port}"
        address = "req.hdr_ip(x-forwarded-for,-1)" if settings.behind_proxy else "src"
        return Template(_TEMPLATE.read_text(encoding="ascii")).substitute(
            maxconn=_max_connections(),
            threads=min(os.cpu_count() or 1, MAX_THREADS),
            client_timeout=f"{CLIENT_TIMEOUT_S}s",
            grant_requests=MAX_GRANT_REQUESTS,
            listen=_listen(settings),
            address_limit="" if settings.behind_proxy else _ADDRESS_LIMIT.format(limit=settings.address_connections),
            address=f"    http-request set-var(txn.address) {address}",
            map=self.map,
            scheme=settings.origins.scheme,
            port=port,
            fetch_metadata=_FETCH_METADATA if settings.origins.scheme == "https" else "",
            servers="".join(f"    server {each.server} {each.address}\n" for each in routes),
            app=settings.app_socket,
        )


def _listen(settings: WebProcessSettings) -> str:
    """Return the address and the options of `bind`. The group of a socket is that of its directory."""
    if isinstance(settings.listen, Path):
        return f"unix@{settings.listen} mode 660"
    host, port = settings.listen
    tls = "" if settings.certificate is None else f" ssl crt {settings.certificate} alpn h2,http/1.1"
    return f"[{host}]:{port} tcp-ut 60s{tls}" if ":" in host else f"{host}:{port} tcp-ut 60s{tls}"


def _max_connections() -> int:
    """Return how many connections of browsers the limit of descriptors allows; each needs one more to its server."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min((hard - _OTHER_FILES) // 2, MAX_CONNECTIONS)
