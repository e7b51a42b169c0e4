"""The addresses from which berth-web's certificates are valid."""

from __future__ import annotations

import asyncio
import socket

import pytest

from broker.controller.web.source_addresses import SourceAddresses
from broker.errors import ConflictError


def towards(host: str, *configured: str) -> list[str]:
    return asyncio.run(SourceAddresses(configured).towards(host, 22))


def test_own_address_on_the_way_to_the_node() -> None:
    assert towards("127.0.0.1") == ["127.0.0.1/32"]
    assert "127.0.0.1/32" in towards("localhost")


def test_connection_comes_from_such_an_address() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server, socket.create_connection(server.getsockname()):
        connection, (address, _) = server.accept()
        connection.close()
    assert towards("127.0.0.2") == [f"{address}/32"]


def test_configured_networks_replace_own_addresses() -> None:
    assert towards("no-such-node.invalid", "192.0.2.0/28", "2001:db8::/64") == ["192.0.2.0/28", "2001:db8::/64"]


def test_node_without_a_name_or_route_is_a_conflict() -> None:
    with pytest.raises(ConflictError, match=r"no route to no-such-node\.invalid"):
        towards("no-such-node.invalid")
