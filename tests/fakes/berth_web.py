"""The control socket of berth-web, which records what it is to close."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from broker.schema.web import EndedVisits
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class FakeBerthWeb:
    """Answers with `status` to each request of the controller."""

    def __init__(self) -> None:
        self.closed: list[EndedVisits] = []
        self.status = 200
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        async with await asyncio.start_unix_server(self._serve, path):
            yield

    async def wait_closed(self, count: int) -> None:
        """Return when it has had so many requests."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.closed) < count:
                self._news.clear()
                await self._news.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("POST /v1/close HTTP/1.1\r\n")
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        self.closed.append(EndedVisits.model_validate_json(await reader.readexactly(length)))
        self._news.set()
        writer.write(f"HTTP/1.1 {self.status} Status\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
