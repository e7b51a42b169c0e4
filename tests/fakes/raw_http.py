"""HTTP/1.1 as bytes over a connection of its own: a test says exactly what is sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """The header's only value; empty without one."""
        found = self.headers_of(name)
        assert len(found) < 2, found
        return found[0] if found else ""

    def headers_of(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


@dataclass
class Wire:
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answer:
        """The next answer without its body."""
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Answer(int(first.split()[1]), headers, b"")

    async def answer(self) -> Answer:
        """The next answer, whose body has a length or ends with the connection."""
        head = await self.head()
        length = head.header("content-length")
        async with asyncio.timeout(DEADLINE_S):
            body = await (self.reader.readexactly(int(length)) if length else self.reader.read())
        return Answer(head.status, head.headers, body)

    async def rest(self) -> bytes:
        """Return all bytes until the other side closes."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(count)

    def close(self) -> None:
        self.writer.close()


async def connect(
    place: int | Path, tls: ssl.SSLContext | None = None, name: str = "", *, source: str = "127.0.0.1"
) -> Wire:
    """A connection to a port of this machine, from an address of it, or to a Unix socket."""
    if isinstance(place, Path):
        return Wire(*await asyncio.open_unix_connection(place))
    server = name or None if tls else None
    opened = asyncio.open_connection("127.0.0.1", place, ssl=tls, server_hostname=server, local_addr=(source, 0))
    return Wire(*await opened)


def request(method: str, target: str, host: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
