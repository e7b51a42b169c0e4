"""The listener of `berth open --local`: who gets to the service, and what passes."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from broker.client import local_listener
from broker.client.local_listener import LocalListener
from broker.client.loopback_peer import loopback_peer_uid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def listener(tmp_path: Path, received: list[bytes], whose: int | None = None) -> AsyncIterator[LocalListener]:
    """A listener before a service that repeats what it gets; `whose`: the user of every connection."""

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            received.append(piece)
            writer.write(piece)
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(repeat, tmp_path / "service"):
        find = loopback_peer_uid if whose is None else lambda *_: whose
        async with LocalListener("web", tmp_path / "service", whose=find) as made:
            yield made


async def send(port: int, request: bytes, address: str = "127.0.0.1") -> bytes:
    """Send a request and its end; return the whole answer, nothing if the connection is reset."""
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(request)
    writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def request(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_bytes_pass_as_they_are_for_the_right_host(tmp_path: Path, address: str) -> None:
    received: list[bytes] = []

    async def scene() -> None:
        async with listener(tmp_path, received) as made:
            body = request(urlsplit(made.url).netloc) + bytes(range(256)) * 4000
            assert await send(made.port, body, address) == body
            assert b"".join(received) == body

    asyncio.run(scene())


@pytest.mark.parametrize(
    "fields",
    [
        "Host: localhost:{port}",
        "Host: {host}",
        "Host: {host}:{port}\r\nHost: attacker.test",
        "Host: attacker.test\r\nHost: {host}:{port}",
        "X-Host: {host}:{port}",
        "Host : attacker.test\r\nHost: {host}:{port}",
        "Accept: */*",
    ],
)
def test_requests_for_another_host_reach_no_service(tmp_path: Path, fields: str) -> None:
    received: list[bytes] = []

    async def scene() -> None:
        async with listener(tmp_path, received) as made:
            parts = urlsplit(made.url)
            head = fields.format(host=parts.hostname, port=parts.port)
            assert (await send(made.port, f"GET / HTTP/1.1\r\n{head}\r\n\r\n".encode())).startswith(b"HTTP/1.1 421 ")
            assert received == []

    asyncio.run(scene())


@pytest.mark.parametrize("whose", [os.getuid() + 1, -1])
def test_processes_of_other_users_get_no_byte(tmp_path: Path, whose: int) -> None:
    received: list[bytes] = []

    async def scene() -> None:
        async with listener(tmp_path, received, whose) as made:
            assert await send(made.port, request(urlsplit(made.url).netloc)) == b""
            assert received == []

    asyncio.run(scene())


def test_first_request_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_listener, "HEAD_LIMIT_S", 0.05)

    async def scene() -> None:
        async with listener(tmp_path, []) as made:
            assert await send(made.port, b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000) == b""
            reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
            assert await reader.read() == b""
            writer.close()

    asyncio.run(scene())


def test_service_that_is_gone_gives_a_page(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LocalListener("web", tmp_path / "none") as made:
            answer = await send(made.port, request(urlsplit(made.url).netloc))
            assert answer.startswith(b"HTTP/1.1 503 ")

    asyncio.run(scene())


def test_connections_end_with_the_listener(tmp_path: Path) -> None:
    async def scene() -> None:
        async with listener(tmp_path, []) as made:
            reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
            writer.write(request(urlsplit(made.url).netloc))
            assert await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == b""
        writer.close()

    asyncio.run(scene())


def test_no_other_process_gets_the_port_of_either_address(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LocalListener("web", tmp_path / "none") as made:
            for address, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
                with pytest.raises(OSError, match="in use"):
                    socket.create_server((address, made.port), family=family)

    asyncio.run(scene())


def test_every_listener_has_a_host_of_its_own(tmp_path: Path) -> None:
    hosts = {urlsplit(LocalListener("a" * 39, tmp_path).url).hostname or "" for _ in range(20)}
    assert len(hosts) == 20
    assert max(len(host.partition(".")[0]) for host in hosts) <= 63


@pytest.mark.parametrize(
    ("listening", "connecting", "family"),
    [
        ("127.0.0.1", "127.0.0.1", socket.AF_INET),
        ("::1", "::1", socket.AF_INET6),
        ("127.0.0.1", "mapped", socket.AF_INET6),
    ],
)
def test_owner_of_a_connection_is_found(listening: str, connecting: str, family: socket.AddressFamily) -> None:
    own_family = socket.AF_INET6 if ":" in listening else socket.AF_INET
    with socket.create_server((listening, 0), family=own_family) as server, socket.socket(family) as client:
        client.connect(("::ffff:127.0.0.1" if connecting == "mapped" else connecting, server.getsockname()[1]))
        accepted, peer = server.accept()
        with accepted:
            own = accepted.getsockname()
            assert loopback_peer_uid(peer[:2], own[:2]) == os.getuid()
            assert loopback_peer_uid((peer[0], 1), own[:2]) is None
