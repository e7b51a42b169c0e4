"""A signal to calls that wait: the caller has disconnected, or the controller is stopping.

A call checks the signal only while it waits. Tasks that it has started continue: other calls may have joined them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 - FastAPI reads this annotation when the application is made

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive


async def departure(request: Request) -> AsyncIterator[asyncio.Event]:
    """Yield an event that is set when the caller of `request` closes its connection before the answer.

    The event is also set when the controller is stopping (`app.state.stopping`): the caller gets the present answer,
    and repeats the request to the next controller.
    """
    gone = asyncio.Event()
    watches = [
        asyncio.create_task(_watch(request.receive, gone)),
        asyncio.create_task(_pass_on(request.app.state.stopping, gone)),
    ]
    try:
        yield gone
    finally:
        for watch in watches:
            watch.cancel()


async def _pass_on(stopping: asyncio.Event, gone: asyncio.Event) -> None:
    await stopping.wait()
    gone.set()


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    """Wait for the connection's end: FastAPI has read the body, so the server's next message is that end."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()
