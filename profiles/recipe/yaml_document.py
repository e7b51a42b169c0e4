"""Parse untrusted YAML into plain data that remembers its line numbers.

Every scalar is text: `version: 1.10` stays `1.10`, `time: 8:00:00` stays `8:00:00`, `no` is no boolean; the
schema gives types. Refused: tags, more aliases than `MAX_ALIASES`, more than `MAX_NODES` values once aliases
are followed, nesting deeper than `MAX_DEPTH`, texts of more than `MAX_BYTES`, keys that are not
text, several documents. A key given twice is a problem of the document, which is reported with others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from profiles.errors import ProfileError
from profiles.recipe.problems import Problem

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 128 * 1024
MAX_ALIASES = 32
MAX_NODES = 5000
MAX_DEPTH = 16

Data = str | list["Data"] | dict[str, "Data"]
YamlPath = tuple[str | int, ...]
"""The path of a value: the keys and indices that lead to it."""


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """The data and, for every path in it, the line (from 1) of its key or list item."""

    data: Data
    lines: dict[YamlPath, int]
    duplicates: list[Problem]
    """The keys that are given twice; `data` has their first values."""

    def line(self, place: YamlPath) -> int:
        """Return the line of `place`, or of the nearest value around it that the file has."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 0)


def parse_yaml(text: str, file: Path) -> YamlDocument:
    """Read one YAML document. Raises ProfileError, with the line, for anything refused."""
    if len(text.encode()) > MAX_BYTES:
        raise ProfileError(
            f"larger than {MAX_BYTES // 1024} KiB",
            file=file,
            hint="put large contents into files of their own and name them with `source`",
        )
    try:
        _check_events(text, file)
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise ProfileError(f"not YAML: {error.problem or error.context}", file=file, line=line) from error
    except yaml.YAMLError as error:
        raise ProfileError(f"not YAML: {error}", file=file) from error
    except (ValueError, OverflowError) as error:  # such as "\\U00110000", which the module yaml does not expect
        raise ProfileError(f"not YAML: a character or number is out of range: {error}", file=file) from error
    if node is None:
        raise ProfileError("empty", file=file)
    reader = _Reader(file)
    return YamlDocument(reader.read(node, ()), reader.lines, reader.duplicates)


def _check_events(text: str, file: Path) -> None:
    """Refuse, before anything is built from it, what could make the composer recurse without end."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.ScalarEvent):
            event.value.encode()  # "\\uD800" is no text: ValueError
        elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > MAX_DEPTH:
            raise ProfileError(f"nested deeper than {MAX_DEPTH} levels", file=file, line=line)
        if aliases > MAX_ALIASES:
            raise ProfileError(f"more than {MAX_ALIASES} aliases", file=file, line=line, hint="write the values out")
        if tag := getattr(event, "tag", None):
            raise ProfileError(
                f"tags such as {tag} are refused",
                file=file,
                line=line,
                hint="plain text, lists and maps are enough",
            )


class _Reader:
    """Turns nodes into data, counting what aliases multiply."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: dict[YamlPath, int] = {}
        self.duplicates: list[Problem] = []
        self.nodes = 0

    def read(self, node: yaml.Node, place: YamlPath) -> Data:
        line = node.start_mark.line + 1
        self.nodes += 1
        if len(place) > MAX_DEPTH:  # the events were shallower: only an alias of something around it gets here
            raise ProfileError("an alias contains itself", file=self.file, line=line)
        if self.nodes > MAX_NODES:
            raise ProfileError(f"more than {MAX_NODES} values once aliases are followed", file=self.file, line=line)
        self.lines.setdefault(place, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*place, index)) for index, child in enumerate(node.value)]
        return str(node.value)

    def _mapping(self, node: yaml.MappingNode, place: YamlPath) -> Data:
        data: dict[str, Data] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ProfileError("a key must be text", file=self.file, line=line)
            key = str(key_node.value)
            if key in data:
                first = self.lines[*place, key]
                self.duplicates.append(Problem(line, f"`{key}` is given twice, first in line {first}"))
                continue
            self.lines[*place, key] = line
            data[key] = self.read(value_node, (*place, key))
        return data
