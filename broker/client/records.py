"""Responses of the controller as records, for commands that only show them: without validation, and fast to import."""

from __future__ import annotations

import json
from typing import Any

from broker.client.answers import invalid_response
from broker.schema.states import SessionState

_MAPPINGS = frozenset({"layers"})
"""Fields that are mappings in the models, too."""


class JsonRecord:
    """A JSON object whose fields are attributes, as in the model of `broker.schema` that it stands for."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - JSON
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            value = self._fields[name]
            value = SessionState(value) if name == "state" else value
        except (KeyError, ValueError) as error:
            raise invalid_response() from error
        return JsonRecord(value) if isinstance(value, dict) and name not in _MAPPINGS else value

    def model_dump(self, *, mode: str = "json") -> dict[str, Any]:
        """Return the JSON object, as the method of the model does with the mode `json`."""
        assert mode == "json"
        return self._fields


def parse_record(content: bytes) -> JsonRecord:
    """Return the record in a response; BerthError if the controller sent something else."""
    return _record(_parse(content))


def parse_records(content: bytes, name: str) -> list[JsonRecord]:
    """Return the records in the list `name` of a response; BerthError if the controller sent something else."""
    records = getattr(_record(_parse(content)), name)
    if not isinstance(records, list):
        raise invalid_response()
    return [_record(fields) for fields in records]


def _parse(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError as error:
        raise invalid_response() from error


def _record(fields: object) -> JsonRecord:
    if not isinstance(fields, dict):
        raise invalid_response()
    return JsonRecord(fields)
