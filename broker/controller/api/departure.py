"""A signal to calls that wait: the caller has left or was logged out, or the controller is stopping.

A call checks the signal only while it waits. Tasks that it has started continue: other calls may have joined them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from broker.controller.api.peer_credentials import Caller, caller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive

    from broker.controller.web.web_access import WebAccess


async def departure(request: Request, who: Annotated[Caller, Depends(caller)]) -> AsyncIterator[asyncio.Event]:
    """Yield an event that is set when the caller of `request` closes its connection before the answer.

    The event is also set when the browser for which the request is has been logged out, and when the controller is
    stopping (`app.state.stopping`): the caller gets the present answer, and repeats the request to the next controller.
    """
    gone, stopping = asyncio.Event(), request.app.state.stopping
    web: WebAccess | None = request.app.state.web
    watches = [
        asyncio.create_task(_wait_disconnected(request.receive)),
        asyncio.create_task(stopping.wait()),
    ]
    if web is not None and who.delegation is not None:
        watches.append(asyncio.create_task(web.browsers.wait_ended(who.delegation, stopping)))
    for watch in watches:
        watch.add_done_callback(lambda _: gone.set())
    try:
        yield gone
    finally:
        for watch in watches:
            watch.cancel()


async def _wait_disconnected(receive: Receive) -> None:
    """Wait for the connection's end: FastAPI has read the body, so the server's next message is that end."""
    while (await receive())["type"] != "http.disconnect":
        pass
