"""The route that streams sessions as they change, as Server-Sent Events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.routing import Match

from broker.controller.api.dependencies import Who
from broker.schema.watch import EVENT_STREAM, HEARTBEAT_HEADER, WATCH_PATH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

    from broker.controller.api.dependencies import Services

MAX_REVISION_CHARS = 64

STREAM_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}, "description": "A stream without an end"}
}


class _StreamRoute(APIRoute):
    """A route for clients that accept an event stream. For others, the path has a session's name."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and EVENT_STREAM not in Headers(scope=scope).get("accept", ""):
            return Match.NONE, {}
        return super().matches(scope)


class StreamResponse(StreamingResponse):
    """A response that sends events until they end or the client leaves, and then calls `close`."""

    def __init__(self, events: AsyncIterator[bytes], heartbeat: float, close: Callable[[], None]) -> None:
        super().__init__(
            events,
            media_type=EVENT_STREAM,
            headers={HEARTBEAT_HEADER: f"{heartbeat:g}", "Cache-Control": "no-store"},
        )
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def add_watch_routes(app: FastAPI, services: Services) -> None:
    """Add the route. It must come before the route of one session, whose pattern has the same form."""

    async def watch_sessions(
        who: Who,
        request: Request,
        since: Annotated[str, Query(max_length=MAX_REVISION_CHARS)] = "",
        last_event_id: Annotated[str, Header(max_length=MAX_REVISION_CHARS)] = "",
    ) -> StreamResponse:
        stream = await services.watches.open(who.user, last_event_id or since)
        return StreamResponse(stream.events(request.app.state.stopping), services.watches.heartbeat, stream.close)

    app.router.add_api_route(
        WATCH_PATH,
        watch_sessions,
        methods=["GET"],
        response_class=StreamingResponse,
        response_model=None,
        responses=STREAM_ANSWER,
        route_class_override=_StreamRoute,
    )
