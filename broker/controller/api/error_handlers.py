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
    if error.status >= 500 and not isinstance(error, WaitingError):  # an ordinary answer
        log.warning("request failed error=%s message=%s", type(error).__name__, error.message)
    return error_response(error)


def error_response(error: BerthError, status: int | None = None) -> JSONResponse:
    body = ErrorBody(reason=error.reason, message=error.message, hint=error.hint, waiting=_wait_of(error))
    # Older clients do not know `waiting`, and never request it.
    return JSONResponse(body.model_dump(exclude_none=True), status_code=status or error.status)


def _wait_of(error: BerthError) -> SessionWait | None:
    if not isinstance(error, WaitingError) or not error.session_id:
        return None
    return SessionWait(session_id=error.session_id, revision=error.revision, seconds=error.seconds)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer a refusal of the framework: an unknown path or method."""
    assert isinstance(error, HTTPException)
    kind = NotFoundError if error.status_code == NotFoundError.status else InvalidInputError
    return error_response(kind(f"{request.method} {request.scope['path']}: {error.detail}"), error.status_code)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    named = first["type"] != "json_invalid"  # its location is an offset in the text
    where = ".".join(str(part) for part in first["loc"][1:] if named) or "the request"
    return await _berth_error(
        request, InvalidInputError(f"{where}: {first['msg']}", hint=_NAME_HINT if where == "name" else "")
    )


_NAME_HINT = "a name has up to 39 lower-case letters, digits and hyphens and begins with a letter"


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed method=%s path=%s", request.method, request.scope["path"], exc_info=error)
    return await _berth_error(
        request, BerthError("the controller failed to process this request", hint="the controller's log has the cause")
    )


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception of a route."""
    app.add_exception_handler(BerthError, _berth_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _internal_error)
