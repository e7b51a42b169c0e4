"""Read untrusted JSON with comments and trailing commas into plain data that remembers its places.

Refused, with line and column: anything else that is not JSON (RFC 8259), keys that are given twice, texts of more than
`MAX_JSON_BYTES`, more than `MAX_JSON_VALUES` values, nesting deeper than `MAX_JSON_DEPTH`, numbers of more than
`MAX_NUMBER_CHARS` characters, and halves of surrogate pairs.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.errors import ProfileError
from profiles.userfile import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

MAX_JSON_BYTES = 256 << 10
MAX_JSON_VALUES = 20_000
MAX_JSON_DEPTH = 32
MAX_NUMBER_CHARS = 32

JsonData = str | int | float | bool | None | list["JsonData"] | dict[str, "JsonData"]
JsonPath = tuple[str | int, ...]
"""The path of a value: the keys and indices that lead to it."""

_SPACE = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z_]+")
_WORDS: dict[str, JsonData] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class JsonDocument:
    """The data, and for every path in it the line and column, from 1, of its key or item."""

    data: JsonData
    places: dict[JsonPath, tuple[int, int]]

    def line(self, place: JsonPath) -> int:
        """Return the line of `place`, or of the nearest value around it that the file has."""
        while place and place not in self.places:
            place = place[:-1]
        return self.places.get(place, (0, 0))[0]


def read_jsonc(file: Path) -> JsonDocument:
    """Read a regular file, which may belong to anybody. Raises ProfileError, also if it cannot be read."""
    try:
        content = read_bytes(file, MAX_JSON_BYTES, own=False, follow=True)
    except OSError as error:
        raise ProfileError(error.strerror or "cannot be read", file=file) from error
    try:
        return parse_jsonc(content.decode("utf-8-sig"), file)
    except UnicodeDecodeError as error:
        raise ProfileError(f"is not UTF-8 text: byte {error.start}", file=file) from error


def parse_jsonc(text: str, file: Path) -> JsonDocument:
    """Read one value. `file` is for messages. Raises ProfileError, with line and column, for anything refused."""
    reader = _JsonReader(text, file)
    data = reader.value((), 0)
    if reader.peek():
        raise reader.wrong("more follows after the end of the value")
    return JsonDocument(data, reader.places)


class _JsonReader:
    def __init__(self, text: str, file: Path) -> None:
        self.text = text
        self.file = file
        self.at = 0
        self.places: dict[JsonPath, tuple[int, int]] = {}

    def wrong(self, what: str, at: int | None = None) -> ProfileError:
        line, column = self.place(self.at if at is None else at)
        return ProfileError(what, file=self.file, line=line, column=column)

    def place(self, at: int) -> tuple[int, int]:
        before = self.text.rfind("\n", 0, at)
        return self.text.count("\n", 0, at) + 1, at - before

    def peek(self) -> str:
        """Skip blanks and comments, and return the next character, empty at the end."""
        found = _SPACE.match(self.text, self.at)
        assert found is not None  # the pattern matches nothing, too
        self.at = found.end()
        if self.text.startswith("/*", self.at):
            raise self.wrong("a comment has no end")
        return self.text[self.at : self.at + 1]

    def value(self, path: JsonPath, depth: int) -> JsonData:
        first = self.peek()
        self.places.setdefault(path, self.place(self.at))
        if len(self.places) > MAX_JSON_VALUES:
            raise self.wrong(f"more than {MAX_JSON_VALUES} values")
        if depth > MAX_JSON_DEPTH:
            raise self.wrong(f"nested deeper than {MAX_JSON_DEPTH} levels")
        if first == "{":
            return self._object(path, depth)
        if first == "[":
            return self._array(path, depth)
        if first == '"':
            return self._string()
        return self._number() if first in set("-0123456789") else self._word()

    def _object(self, path: JsonPath, depth: int) -> JsonData:
        data: dict[str, JsonData] = {}
        self.at += 1
        while (first := self.peek()) != "}":
            begin = self.at
            if first != '"':
                raise self.wrong('a key in double quotes or "}" is expected')
            key = self._string()
            if key in data:
                line, column = self.places[*path, key]
                raise self.wrong(f"`{key}` is given twice, first in line {line}, column {column}", begin)
            self.places[*path, key] = self.place(begin)
            if self.peek() != ":":
                raise self.wrong('":" is expected after the key')
            self.at += 1
            data[key] = self.value((*path, key), depth + 1)
            self._separator("}")
        self.at += 1
        return data

    def _array(self, path: JsonPath, depth: int) -> JsonData:
        items: list[JsonData] = []
        self.at += 1
        while self.peek() != "]":
            items.append(self.value((*path, len(items)), depth + 1))
            self._separator("]")
        self.at += 1
        return items

    def _separator(self, end: str) -> None:
        """Step over a comma, which may stand before the end too."""
        found = self.peek()
        if found == ",":
            self.at += 1
        elif found != end:
            raise self.wrong(f'"," or "{end}" is expected')

    def _string(self) -> str:
        found = _STRING.match(self.text, self.at)
        if found is None:
            raise self.wrong("a text has no end, or holds a line break, a control character or a wrong escape")
        text: str = json.loads(found[0])
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.wrong("a text holds half of a surrogate pair") from error
        self.at = found.end()
        return text

    def _number(self) -> int | float:
        found = _NUMBER.match(self.text, self.at)
        if found is None or len(found[0]) > MAX_NUMBER_CHARS or self.text[found.end() : found.end() + 1].isalnum():
            raise self.wrong("is not a number of JSON")
        number: int | float = json.loads(found[0])
        if abs(number) == float("inf"):
            raise self.wrong("the number is too large")
        self.at = found.end()
        return number

    def _word(self) -> JsonData:
        found = _WORD.match(self.text, self.at)
        if found is None or found[0] not in _WORDS:
            raise self.wrong("a value is expected" if self.peek() else "the text ends where a value is expected")
        self.at = found.end()
        return _WORDS[found[0]]
