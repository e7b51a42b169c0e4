"""Turn each failure into an HTTP response: a status, and a body with reason, message and hint."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from broker.errors import BerthError, InvalidInputError, NotFoundError, WaitingError
from broker.schema.base import ErrorBody, SessionWait

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

log = logging.getLogger(__name__)


async def _berth_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BerthError)
    if error.status >= 500 and not isinstance(error, WaitingError):  # that one is an ordinary answer
        log.warning("%s: %s", type(error).__name__, error.message)
    return error_response(error)


def error_response(error: BerthError, status: int | None = None) -> JSONResponse:
    body = ErrorBody(reason=error.reason, message=error.message, hint=error.hint, waiting=_waiting(error))
    # Older programs do not know `waiting`, and never ask for it.
    return JSONResponse(body.model_dump(exclude_none=True), status_code=status or error.status)


def _waiting(error: BerthError) -> SessionWait | None:
    if not isinstance(error, WaitingError) or not error.session_id:
        return None
    return SessionWait(session_id=error.session_id, revision=error.revision, seconds=error.seconds)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses by itself: a path or method that is not there."""
    assert isinstance(error, HTTPException)
    kind = NotFoundError if error.status_code == NotFoundError.status else InvalidInputError
    return error_response(kind(f"{request.method} {request.scope['path']}: {error.detail}"), error.status_code)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    named = first["type"] != "json_invalid"  # which tells a place in the text instead
    where = ".".join(str(part) for part in first["loc"][1:] if named) or "the request"
    return await _berth_error(
        request, InvalidInputError(f"{where}: {first['msg']}", hint=_NAME_HINT if where == "name" else "")
    )


_NAME_HINT = "a name has up to 39 lower-case letters, digits and hyphens and begins with a letter"


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return await _berth_error(
        request, BerthError("the controller failed at this request", hint="its log has the cause")
    )


def add_error_handlers(app: FastAPI) -> None:
    """Have every exception of a route answered."""
    app.add_exception_handler(BerthError, _berth_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _unexpected)
