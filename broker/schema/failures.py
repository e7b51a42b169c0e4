"""Errors of the controller, as its clients in other processes raise them."""

from __future__ import annotations

from pydantic import ValidationError

from broker.errors import BerthError, ControllerUnavailableError, WaitingError, from_reason
from broker.schema.base import ErrorBody


def no_answer() -> ControllerUnavailableError:
    """Return the error of a call that has no valid answer."""
    return ControllerUnavailableError(
        "Berth's controller does not answer", hint="try again in a moment; running sessions are not affected"
    )


def read_failure(body: bytes, status: int) -> BerthError:
    """Return the error in the body of a response that is no success."""
    try:
        error = ErrorBody.model_validate_json(body)
    except ValidationError:
        return ControllerUnavailableError(f"Berth's controller answered with {status}")
    if error.waiting is not None:
        return WaitingError(error.message, hint=error.hint, **error.waiting.model_dump())
    return from_reason(error.reason, error.message, error.hint)
