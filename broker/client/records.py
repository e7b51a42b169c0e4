"""Responses of the controller as records, for commands that only show them: without validation, and fast to import."""

from __future__ import annotations

import json
from typing import Any, ClassVar

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


class CompactRecord(JsonRecord):
    """A JsonRecord in a fifth of the memory: records with the same fields share their names and equal texts."""

    __slots__ = ("_shape", "_values")
    _shapes: ClassVar[dict[tuple[str, ...], dict[str, int]]] = {}
    shared: ClassVar[dict[type, dict[str, Any]]] = {str: {}, list: {}, dict: {}}
    """By type and text, the values that records share."""

    def __init__(self, fields: dict[str, Any]) -> None:
        names = tuple(fields)
        shape = self._shapes.get(names)
        if shape is None:
            shape = self._shapes[names] = {name: number for number, name in enumerate(names)}
        self._shape = shape
        values, known = list(fields.values()), self.shared[str]
        for number, value in enumerate(values):  # a list of 10,000 sessions comes here half a million times
            kind = type(value)
            if kind is str:
                if value:  # Python has one empty text
                    values[number] = known.get(value) or _share(value, value)
            elif kind is list or kind is dict:
                values[number] = _share(value, repr(value))
        self._values: tuple[Any, ...] = tuple(values)

    @property
    def _fields(self) -> dict[str, Any]:  # type: ignore[override]  # made when it is needed
        return dict(zip(self._shape, self._values, strict=True))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - JSON
        try:
            value = self._values[self._shape[name]]
            if name == "state":
                return SessionState(value)
        except (KeyError, ValueError) as error:
            if name.startswith("_"):
                raise AttributeError(name) from None
            raise invalid_response() from error
        return JsonRecord(value) if type(value) is dict and name not in _MAPPINGS else value


_SHARED_CHARS, _SHARED_VALUES = 64, 4096
"""Values up to this length as text are shared, and so many of them: states, profiles, options, policies."""


def _share(value: object, text: str) -> object:
    """Return an equal text, list or object that another record has. Nothing changes a record."""
    shared = CompactRecord.shared[type(value)]
    if len(text) > _SHARED_CHARS:
        return value
    return shared.setdefault(text, value) if len(shared) < _SHARED_VALUES else shared.get(text, value)


def load_compact(content: bytes) -> Any:  # noqa: ANN401 - JSON
    """Parse JSON. Each session in it becomes a CompactRecord as soon as it is read."""
    return json.loads(content, object_hook=_compact_session)


def _compact_session(fields: dict[str, Any]) -> object:
    return CompactRecord(fields) if "generation" in fields and "revision" in fields else fields


def parse_record(content: bytes) -> JsonRecord:
    """Return the record in a response; BerthError if the controller sent something else."""
    return make_record(_parse(content))


def parse_records(content: bytes, name: str) -> list[JsonRecord]:
    """Return the records in the list `name` of a response; BerthError if the controller sent something else."""
    records = getattr(make_record(_parse(content)), name)
    if not isinstance(records, list):
        raise invalid_response()
    return [make_record(fields) for fields in records]


def _parse(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError as error:
        raise invalid_response() from error


def make_record(fields: object) -> JsonRecord:
    """Return a parsed JSON object as a record; BerthError for anything else."""
    if isinstance(fields, JsonRecord):
        return fields
    if not isinstance(fields, dict):
        raise invalid_response()
    return JsonRecord(fields)
