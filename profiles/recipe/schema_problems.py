"""Describe the errors that pydantic finds in a document, in the document's terms and with lines."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Protocol

from profiles.recipe.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel, ValidationError


class DocumentPlaces(Protocol):
    """A document that knows the lines of its values."""

    def line(self, place: tuple[str | int, ...]) -> int:
        """Return the line of a value, or of the nearest one around it."""


_PLAIN_MESSAGES = {
    "model_type": "must be a map of keys and values",
    "dict_type": "must be a map of keys and values",
    "list_type": "must be a list",
    "string_type": "must be text",
    "bool_parsing": "must be `true` or `false`",
    "literal_error": "must be {expected}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} items",
}
"""Messages of pydantic, which uses Python's terms, in YAML's terms."""


def schema_problems(
    error: ValidationError,
    document: DocumentPlaces,
    root: type[BaseModel],
    nested: Mapping[str, type[BaseModel]],
    patterns: Mapping[str, str],
) -> Iterator[Problem]:
    """Describe pydantic's errors in the terms of the schema `root`.

    `nested` has the models of keys with keys of their own; `patterns` has the meaning of each pattern in words.
    """
    for details in error.errors(include_url=False):
        place = details["loc"]
        if place[:1] == ("resources",):
            place = place[:2]  # the rest names the types that a value may have
        dotted = ".".join(str(part) for part in place if part != "[key]")
        line = document.line(place)
        if details["type"] == "extra_forbidden":
            yield _unknown_key(place, line, nested.get(str(place[0]), root) if len(place) > 1 else root)
        elif details["type"] == "missing":
            yield Problem(line, f"`{dotted}` is missing")
        elif not details["type"].startswith("bool_") or place[:1] != ("resources",):
            context = details.get("ctx", {})
            said = _plain_message(details["type"], context) or patterns.get(str(context.get("pattern", "")))
            said = said or details["msg"].removeprefix("Value error, ")
            yield Problem(line, f"`{dotted}`: {said}" if dotted else said)


def _plain_message(kind: str, context: Mapping[str, Any]) -> str:
    return _PLAIN_MESSAGES.get(kind, "").format_map(context).replace("'", "`")


def _unknown_key(place: tuple[str | int, ...], line: int, model: type[BaseModel]) -> Problem:
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    return Problem(line, f"unknown key `{place[-1]}`", hint)
