"""Server-Sent Events as the controller sends them (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_EVENT_BYTES = 16 * 2**20
"""Above the sessions of any user."""


async def parse_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, str]]:
    """Yield kind and data of each event; two empty texts for a comment. ValueError for an event that is too long."""
    buffer = bytearray()
    async for chunk in chunks:
        searched = max(len(buffer) - 1, 0)
        buffer += chunk
        while (end := buffer.find(b"\n\n", searched)) >= 0:
            fields = dict(line.partition(": ")[::2] for line in buffer[:end].decode().split("\n"))
            del buffer[: end + 2]
            searched = 0
            yield fields.get("event", ""), fields.get("data", "")
        if len(buffer) > MAX_EVENT_BYTES:
            raise ValueError("an event is too long")
