"""A strict reader of JSON that strangers wrote: bounded, without duplicate keys, deep nesting and absurd numbers."""

from __future__ import annotations

import json
import math
from typing import Any

from profiles.errors import OciImageError

MAX_DEPTH_OF_JSON = 64
MAX_DIGITS = 19
_LIMIT_HINT = "it was made by no tool that Berth knows"


def parse_json_object(content: bytes, what: str, limit: int) -> dict[str, Any]:
    """Return the object in `content`, of at most `limit` bytes. `what` names it in messages. Raises OciImageError."""
    if len(content) > limit:
        raise OciImageError(f"{what} is larger than {limit >> 10} KiB, the most that Berth reads of it")
    try:
        text = content.decode()
        _check_depth(text, what)
        data = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
        )
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, _FaultError) else "it is not valid JSON in UTF-8"
        raise OciImageError(f"{what} cannot be read: {said}", hint=_LIMIT_HINT) from error
    if not isinstance(data, dict):
        raise OciImageError(f"{what} is no JSON object", hint=_LIMIT_HINT)
    return data


class _FaultError(ValueError):
    """A fault with words for the user."""


def _check_depth(text: str, what: str) -> None:
    """Refuse nesting before the parser recurses into it. Brackets in strings do not count."""
    depth, in_string, escaped = 0, False, False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH_OF_JSON:
                raise OciImageError(f"{what} is nested more than {MAX_DEPTH_OF_JSON} deep", hint=_LIMIT_HINT)
        elif char in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _FaultError(f"the key {key[:60]!r} is given twice")
        found[key] = value
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise _FaultError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _FaultError("a number is too large")
    return value


def _constant(name: str) -> float:
    raise _FaultError(f"{name} is no number")
