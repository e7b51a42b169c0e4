"""The end of a caller's connection, for the calls that wait: a caller that has left waits for nothing any more.

A call looks at it where it waits, and only there. What the call has begun continues: other calls may have joined it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 - FastAPI reads this annotation when the application is made

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive


async def departure(request: Request) -> AsyncIterator[asyncio.Event]:
    """Give an event that is set when the caller of `request` closes its connection before it has its answer."""
    gone = asyncio.Event()
    watch = asyncio.create_task(_watch(request.receive, gone))
    try:
        yield gone
    finally:
        watch.cancel()


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    """Wait for the connection's end: FastAPI has read the body, so the server's next message is that end."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()
