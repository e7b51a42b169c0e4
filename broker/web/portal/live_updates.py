"""The event stream of a page: it says that sessions have changed, and announces their new states in words.

A page then loads itself again, and replaces what differs: so the templates are the only makers of HTML.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from broker.errors import BerthError, LoggedOutError
from broker.format import escape_controls
from broker.schema.sessions import SessionView
from broker.schema.watch import CHANGE_EVENT, EVENT_STREAM, SNAPSHOT_EVENT, WATCH_PATH
from broker.text.session import state_line
from broker.web.portal.login_cookie import read_login
from broker.web.portal.portal_context import context_of
from broker.web.portal.session_view import change_key

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from broker.web.controller_client import WebControllerClient

RETRY_MS = 3000
"""Time after which browsers connect again when the stream has ended."""
MAX_EVENT_BYTES = 16 * 2**20
"""As the controller's client reads at most."""
_BEGIN = f"retry: {RETRY_MS}\n\n"
_REFRESH = "event: refresh\ndata: -\n\n"
_ENDED = "event: ended\ndata: -\n\n"
_HEARTBEAT = ":\n\n"


class SessionChanges:
    """The sessions of one stream, to tell changes of their states from others."""

    def __init__(self, only: str = "") -> None:
        """`only`: the name of the only session that the page shows."""
        self._only = only
        self._known: dict[str, tuple[str, tuple[object, ...]]] = {}

    def events(self, kind: str, data: str) -> Iterator[str]:
        """Yield the page's events for one of the controller's events."""
        record = json.loads(data)
        if kind == SNAPSHOT_EVENT:
            self._known = {}
            for view in map(SessionView.model_validate, record["sessions"]):
                self._known[view.id] = view.name, change_key(view)
            yield _REFRESH
        elif kind == CHANGE_EVENT:
            lines = [*self._changed(record["changed"]), *self._removed(record["removed"])]
            for line in filter(None, lines):
                yield f"event: announce\ndata: {escape_controls(line)}\n\n"
            if lines:
                yield _REFRESH

    def _changed(self, records: list[object]) -> Iterator[str]:
        """Yield a line for each session that the page shows; an empty one if its state has not changed."""
        for view in map(SessionView.model_validate, records):
            before = self._known.get(view.id)
            self._known[view.id] = view.name, change_key(view)
            if self._only in {"", view.name}:
                yield state_line(view) if before is None or before[1] != change_key(view) else ""

    def _removed(self, ids: list[str]) -> Iterator[str]:
        for session_id in ids:
            name, _ = self._known.pop(session_id, ("", ()))
            if name and self._only in {"", name}:
                yield f"{name} is deleted"


async def stream_events(request: Request) -> Response:
    """Answer with the stream of a page."""
    delegation = read_login(request)
    if not delegation:
        return PlainTextResponse("not logged in\n", 401)
    changes = SessionChanges(request.query_params.get("session", ""))
    return _EventResponse(_page_events(context_of(request).controller, delegation, changes))


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


async def _page_events(
    controller: WebControllerClient, delegation: str, changes: SessionChanges
) -> AsyncGenerator[str, None]:
    """Yield the events. The stream ends when the controller's does: the browser connects again."""
    yield _BEGIN
    try:
        async with controller.stream(WATCH_PATH, delegation=delegation) as chunks:
            async for kind, data in _parse_events(chunks):
                for event in changes.events(kind, data) if data else [_HEARTBEAT]:
                    yield event
    except LoggedOutError:
        yield _ENDED
    except (BerthError, ValueError, LookupError, TypeError):  # the last three: of another version's controller
        return


async def _parse_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, str]]:
    """Yield kind and data of each event; two empty texts for a comment (WHATWG HTML, section 9.2.6)."""
    buffer = b""
    async for chunk in chunks:
        buffer += chunk
        *blocks, buffer = buffer.split(b"\n\n")
        if len(buffer) > MAX_EVENT_BYTES:
            raise ValueError("an event is too long")
        for block in blocks:
            fields = dict(line.partition(": ")[::2] for line in block.decode().split("\n"))
            yield fields.get("event", ""), fields.get("data", "")


LIVE_ROUTES = [Route("/events", stream_events, methods=["GET"])]
