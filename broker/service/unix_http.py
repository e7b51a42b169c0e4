"""A client for HTTP over a Unix socket, for the calls between Berth's processes on one node."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from pathlib import Path

_TLS_NEVER_USED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""One for all clients: httpx would take long to make another for each."""
MAX_IDLE_CONNECTIONS = 8


def unix_client(
    socket: Path, timeout: float | httpx.Timeout, *, max_connections: int | None = None
) -> httpx.AsyncClient:
    """Return a client for the server at this socket, which no variable of the environment configures.

    Its addresses begin with a slash. `max_connections`: connections at once; others wait.
    """
    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=MAX_IDLE_CONNECTIONS)
    transport = httpx.AsyncHTTPTransport(verify=_TLS_NEVER_USED, uds=str(socket), limits=limits)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=timeout, trust_env=False)
