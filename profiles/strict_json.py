"""Read JSON files that other users may have written: no entry occurs twice, and each number is finite."""

from __future__ import annotations

import json


def load_strict_json(text: str) -> object:
    """Return what a JSON text says. ValueError with the fault, as the end of `FILE is damaged: `."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repetition)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON from line {error.lineno} on") from error


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has an entry twice")
    return found


def _refuse_constant(_: str) -> float:
    raise ValueError("it has a number that is none")
