"""The control socket, over which the controller ends visits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from broker.errors import BerthError, InvalidInputError
from broker.schema.base import ErrorBody
from broker.schema.web import EndedVisits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from starlette.requests import Request

MAX_BODY_BYTES = 256 * 1024
"""Above two full lists of ids."""


def control_app(close: Callable[[EndedVisits], Awaitable[None]]) -> Starlette:
    """Return the application. `close` returns when all connections of the visits are closed."""

    async def close_visits(request: Request) -> Response:
        try:
            await close(EndedVisits.model_validate_json(await _body(request)))
        except ValidationError:
            return _failure(InvalidInputError("the body is not a list of ended visits"))
        except BerthError as error:
            return _failure(error)
        return JSONResponse({})

    return Starlette(routes=[Route("/v1/close", close_visits, methods=["POST"])])


def may_control(uid: int, api_socket: Path) -> bool:
    """Whether an account is root, or the controller's, which owns the directory of the API's socket."""
    try:
        return uid in {0, api_socket.parent.stat().st_uid}
    except OSError:
        return uid == 0


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise InvalidInputError("the body is too long")
    return bytes(body)


def _failure(error: BerthError) -> Response:
    body = ErrorBody(reason=error.reason, message=error.message, hint=error.hint)
    return JSONResponse(body.model_dump(), status_code=error.status)
