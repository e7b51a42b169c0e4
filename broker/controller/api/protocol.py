"""HTTP/1.1 on one connection to the API: uvicorn's protocol with limits on a client's data and time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from broker.errors import ControllerUnavailableError
from broker.schema.base import ErrorBody

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn
    from uvicorn.server import ServerState

    from broker.controller.api.peer_credentials import Peer

MAX_HEAD_BYTES = 16 * 1024
"""Method, target and headers of one request. The largest request of Berth's own programs has 500 bytes."""
MAX_METHOD_BYTES = 16
MAX_TARGET_BYTES = 4096
MAX_HEADERS = 64
REQUEST_TIMEOUT_S = 15.0
"""Time for a whole request to arrive, from its first byte or from the start of the connection. Clients are local, and
send at once."""
KEEP_ALIVE_S = 5
"""Time that a connection may be idle after an answer. httpx, the gateway's client, closes after the same time."""
ANSWER_TIMEOUT_S = 60.0
"""Time in which a client must have read the answer. The largest one, the tail of a log, has a few MiB."""


STOP_TIMEOUT_S = 5
"""Time to answer active requests when the controller is stopped; waiting requests are answered at once."""


class _BoundedConnection(h11.Connection):
    """An h11 connection that limits complete heads, too.

    h11 limits only incomplete heads: one that arrives at once may have any length.
    """

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request):
            length = len(event.target) + sum(len(name) + len(value) for name, value in event.headers)
            if (
                len(event.method) > MAX_METHOD_BYTES
                or len(event.target) > MAX_TARGET_BYTES
                or len(event.headers) > MAX_HEADERS
                or length > MAX_HEAD_BYTES
            ):
                raise h11.RemoteProtocolError("the head of the request is too long", error_status_hint=431)
        return event


class ApiProtocol(H11Protocol):
    """A connection of `peer`. `lost` is called once when the connection and all its requests have ended.

    A request continues without its client, and may wait for an hour. It counts until then, so that a client that
    disconnects early cannot have any number of them.
    """

    def __init__(self, config: uvicorn.Config, server_state: ServerState, peer: Peer, lost: Callable[[], None]) -> None:
        super().__init__(config, server_state, {"peer": peer})
        self.conn = _BoundedConnection(h11.SERVER, MAX_HEAD_BYTES)
        self._lost = lost
        self._ended = False
        self._requests = 0
        """Requests in progress."""
        self._application, self.app = self.app, self._handle
        self._arrival: asyncio.TimerHandle | None = None
        """Closes the connection if a request does not arrive in time."""
        self._stall: asyncio.TimerHandle | None = None
        """Closes the connection if the client does not read the answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn declares its own Transport union
        super().connection_made(transport)
        self.client = None  # the caller is in the scope's state, and nowhere else
        transport.set_write_buffer_limits(high=0)  # so pause_writing is called as soon as anything is buffered
        self._watch_arrival()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._arrival, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._ended = True
        self._leave_if_idle()

    async def _handle(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - as ASGI has them
        self._requests += 1
        cycle = self.cycle
        try:
            await self._application(scope, receive, send)
        except asyncio.CancelledError:  # only uvicorn cancels, after STOP_TIMEOUT_S
            if cycle.response_started:
                self.transport.abort()
            elif not cycle.disconnected:
                await _answer_stop(send)
        finally:
            self._requests -= 1
            self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if self._ended and not self._requests:
            self._lost()

    def data_received(self, data: bytes) -> None:
        """Pass the data on in pieces, so that the limit of a head holds for reads of any size."""
        for start in range(0, len(data), MAX_HEAD_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + MAX_HEAD_BYTES])
        self._watch_arrival()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # of this request, or of the next one
            self._watch_arrival()
        elif self._arrival is not None:  # idle: the keep-alive timer runs
            self._arrival.cancel()
            self._arrival = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(ANSWER_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _watch_arrival(self) -> None:
        """Run a timer while a request has not arrived completely."""
        if self.conn.their_state in {h11.IDLE, h11.SEND_BODY}:
            if self._arrival is None:
                self._arrival = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)
        elif self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _should_upgrade(self) -> bool:
        """Never upgrade: a client must not be able to fill the log."""
        return False


async def _answer_stop(send: Any) -> None:  # noqa: ANN401 - as above
    """Answer a request that the stop of the controller has interrupted."""
    error = ControllerUnavailableError(
        "the controller stopped before the request was complete",
        hint="the operation may continue: `berth list` and `berth show NAME` show it shortly",
    )
    body = ErrorBody(reason=error.reason, message=error.message, hint=error.hint).model_dump_json().encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def settings(app: Any) -> dict[str, Any]:  # noqa: ANN401 - an ASGI application, which uvicorn types for itself
    """Return the arguments of `uvicorn.Config`, including those that it would read from the environment."""
    return {
        "app": app,
        "interface": "asgi3",
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "forwarded_allow_ips": [],
        "workers": 1,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": STOP_TIMEOUT_S,
        "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
    }
