"""The event stream of a page: it says that sessions have changed, and announces their new states in words.

A page then loads itself again, and replaces what differs: so the templates are the only makers of HTML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from broker.format import escape_controls
from broker.schema.watch import EVENT_STREAM
from broker.web.portal.login_cookie import read_login
from broker.web.portal.portal_context import context_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from broker.web.portal.live_sessions import LiveSessions

RETRY_MS = 3000
"""Time after which browsers connect again when the stream has ended."""
HEARTBEAT_S = 15.0
"""Time without an event after which a page gets a sign of life: so a browser that has vanished is noticed."""
_BEGIN = f"retry: {RETRY_MS}\n\n"
_REFRESH = "event: refresh\ndata: -\n\n"
_ENDED = "event: ended\ndata: -\n\n"
_HEARTBEAT = ":\n\n"


async def stream_events(request: Request) -> Response:
    """Answer with the stream of a page."""
    delegation = read_login(request)
    if not delegation:
        return PlainTextResponse("not logged in\n", 401)
    only = request.query_params.get("session", "")
    return _EventResponse(_page_events(context_of(request).live, delegation, only))


class _EventResponse(StreamingResponse):
    """A stream whose source is closed when the browser leaves."""

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(events, media_type=EVENT_STREAM)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def _page_events(live: LiveSessions, delegation: str, only: str) -> AsyncGenerator[str, None]:
    """Yield the events until the login ends. `only`: the name of the only session that the page shows."""
    yield _BEGIN
    position = 0
    with live.page(delegation) as feed:
        while not feed.has_ended:
            news = feed.news(position, only)
            position = news.number
            for line in news.lines:
                yield f"event: announce\ndata: {escape_controls(line)}\n\n"
            if news.is_outdated:
                yield _REFRESH
            if not await feed.wait(position, HEARTBEAT_S):
                yield _HEARTBEAT
    yield _ENDED


LIVE_ROUTES = [Route("/events", stream_events, methods=["GET"])]
