"""The addresses from which berth-web's connections reach a node: its certificates are valid from there only."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from broker.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence

RESOLVE_LIMIT_S = 10.0


class SourceAddresses:
    """The addresses of this host, or those of the site's settings where nodes see others."""

    def __init__(self, configured: Sequence[str]) -> None:
        """`configured`: networks in CIDR notation; none: this host's own addresses."""
        self._configured = list(configured)

    async def towards(self, host: str, port: int) -> list[str]:
        """Return networks in CIDR notation; the configured ones, or this host's address on the route to each address
        of `host`.

        ConflictError if `host` has no address with a route from here.
        """
        if self._configured:
            return self._configured
        found: list[tuple[int, tuple[object, ...]]] = []
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(RESOLVE_LIMIT_S):
                answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            found = [(family, address) for family, _, _, _, address in answers]
        own = dict.fromkeys(source for family, address in found if (source := _source(family, address)))
        if not own:
            raise ConflictError(
                f"this node has no route to {host}", hint="the node may be down; the site's administrator can help"
            )
        return list(own)


def _source(family: int, address: tuple[object, ...]) -> str:
    """Return this host's address on the way there, with the prefix length of one address; empty if there is no way.

    Connecting a datagram socket selects the address and sends nothing (udp(7)).
    """
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return ""
        own = ipaddress.ip_address(str(probe.getsockname()[0]).partition("%")[0])
    return f"{own}/{own.max_prefixlen}"
