"""Limit each request, and count it in the metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from broker.controller.metrics import OTHER, observe_request
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.controller.api.error_handlers import error_response

MAX_BODY_BYTES = 256 * 1024
"""Bytes of one request; the largest one, a start with all options that slurm.sbatch takes, has 66,000."""


class RequestLimits:
    """ASGI middleware that counts each request, and refuses a body that is too large before it reads any of it.

    A request's duration ends where its response begins: a stream lasts as long as its client wants.
    """

    def __init__(
        self, app: ASGIApp, in_use: Callable[[], AbstractContextManager[None]], methods: frozenset[str]
    ) -> None:
        """`methods`: the methods of all routes, each with its own series in the metrics."""
        self._app = app
        self._in_use = in_use
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        took: float | None = None

        async def record_status(message: Message) -> None:
            nonlocal status, took
            if message["type"] == "http.response.start":
                status, took = message["status"], time.monotonic() - began
            await send(message)

        try:
            with self._in_use():
                await self._serve_bounded(scope, receive, record_status)
        except Exception:
            status = status or 500
            raise
        finally:
            # The route's pattern, not the path of the request: labels must be few.
            path = getattr(scope.get("route"), "path", OTHER)
            method = scope["method"] if scope["method"] in self._methods else OTHER
            observe_request(method, path, status, time.monotonic() - began if took is None else took)

    async def _serve_bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers or int(headers.get("content-length", 0)) > MAX_BODY_BYTES:
            refusal = InvalidInputError(f"a request needs a Content-Length of at most {MAX_BODY_BYTES} bytes")
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)
