"""Describe what pydantic finds wrong in a JSON file, in JSON's terms and with lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiles.recipe.problems import Problem
from profiles.recipe.schema_problems import schema_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel, ValidationError

    from profiles.devcontainer.jsonc import JsonDocument

MAX_PLACE_CHARS = 120


def json_problems(error: ValidationError, document: JsonDocument, model: type[BaseModel]) -> Iterator[Problem]:
    """Yield one problem for each place that is wrong. Places of several possible types are said once."""
    seen: set[int] = set()
    for problem in schema_problems(error, document, model, {}, {}):
        line = problem.line
        if line in seen:
            continue
        seen.add(line)
        yield Problem(line, problem.message[:400], problem.hint)
