"""The description of one field of a pydantic model on a page: the words below it, its kind, its default."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING, Any

from broker.config.file import Mode

if TYPE_CHECKING:
    from pydantic import BaseModel


def descriptions(section: type[BaseModel]) -> dict[str, str]:
    """The string below each attribute, as the house style documents attributes."""
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            found[statement.target.id] = inspect.cleandoc(str(following.value.value))
    return found


def kind(schema: dict[str, Any]) -> str:
    """Return the kind of a value in words, from its JSON schema."""
    if "anyOf" in schema:
        return next(kind(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return "one of " + ", ".join(f"`{mode.value}`" for mode in Mode)
    if schema["type"] == "array":
        return f"list of {kind(schema['items'])}s"
    if special := {"path": "absolute path", "date": "date"}.get(schema.get("format", "")):
        return special
    words = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}
    limits = [f"from {_short(schema['minimum'])}"] if "minimum" in schema else []
    limits += [f"to {_short(schema['maximum'])}"] if "maximum" in schema else []
    limits += [f"above {_short(schema['exclusiveMinimum'])}"] if "exclusiveMinimum" in schema else []
    limits += [f"as in `{schema['pattern']}`"] if "pattern" in schema else []
    return " ".join([words[schema["type"]], *limits])


def _short(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def default(value: object) -> str:
    """A default value as a page shows it."""
    if value is None or value in ("", [], ()):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
