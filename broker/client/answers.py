"""Parse the controller's responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from broker.errors import BerthError

if TYPE_CHECKING:
    from pydantic import BaseModel

_Answer = TypeVar("_Answer", bound="BaseModel")


def parse_answer(answer: type[_Answer], content: bytes) -> _Answer:
    """Return the response as this type; BerthError if the controller sent something else."""
    try:
        return answer.model_validate_json(content)
    except ValueError as error:  # pydantic's ValidationError is one
        raise invalid_response() from error


def invalid_response() -> BerthError:
    """Return the error for a response that the controller's version of the API does not have here."""
    return BerthError(
        "the controller's response is invalid",
        hint="the controller may have another version than this command; `berth version` prints the command's",
    )
