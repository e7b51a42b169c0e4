"""The instructions of a Dockerfile: enough of them to know which images and files a build reads.

buildah reads the Dockerfile itself; what is not understood here counts as read.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.errors import ProfileError
from profiles.userfile import read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_DOCKERFILE_BYTES = 1 << 20
MAX_INSTRUCTIONS = 4096

_DIRECTIVE = re.compile(r"#\s*([A-Za-z]+)\s*=\s*(\S+)\s*$")
_FLAG = re.compile(r"--([a-z]+)(?:=(\S*))?\s+")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its first line (from 1), its word in capitals, its flags, and the rest of it on one line."""

    line: int
    word: str
    flags: tuple[tuple[str, str], ...]
    rest: str

    @property
    def text(self) -> str:
        """The instruction without its comments and line breaks."""
        flags = "".join(f"--{name}={value} " if value else f"--{name} " for name, value in self.flags)
        return f"{self.word} {flags}{self.rest}"


def read_dockerfile(file: Path) -> list[Instruction]:
    """Read a Dockerfile. Raises ProfileError if it cannot be read, or has no FROM."""
    try:
        text = read_bytes(file, MAX_DOCKERFILE_BYTES, own=False, follow=True).decode()
    except OSError as error:
        raise ProfileError(error.strerror or "cannot be read", file=file) from error
    except UnicodeDecodeError as error:
        raise ProfileError("is not UTF-8 text", file=file) from error
    if "\0" in text:
        raise ProfileError("contains a NUL character", file=file)
    instructions = list(_instructions(text))
    if len(instructions) > MAX_INSTRUCTIONS:
        raise ProfileError(f"has more than {MAX_INSTRUCTIONS} instructions", file=file)
    if not any(each.word == "FROM" for each in instructions):
        raise ProfileError("has no FROM", file=file, hint="a Dockerfile begins with FROM and the image it starts from")
    return instructions


def _instructions(text: str) -> Iterator[Instruction]:
    escape = "\\"
    lines = text.splitlines()
    first = 0
    while first < len(lines) and (found := _DIRECTIVE.match(lines[first])):
        escape = found[2] if found[1].lower() == "escape" and found[2] in "\\`" else escape
        first += 1
    begin, parts = 0, list[str]()
    for number, line in enumerate(lines[first:], start=first + 1):
        bare = line.strip()
        if bare.startswith("#") or (not bare and not parts):
            continue
        begin = begin if parts else number
        parts.append(bare.removesuffix(escape).rstrip())
        if not bare.endswith(escape):
            yield _parse_instruction(begin, " ".join(part for part in parts if part))
            parts = []
    if parts:
        yield _parse_instruction(begin, " ".join(parts))


def _parse_instruction(line: int, text: str) -> Instruction:
    word, _, rest = text.partition(" ")
    flags = []
    rest = rest.lstrip()
    while found := _FLAG.match(f"{rest} "):
        flags.append((found[1], found[2] or ""))
        rest = rest[found.end() :].lstrip()
    return Instruction(line, word.upper(), tuple(flags), rest)


def images_read(instructions: list[Instruction]) -> list[str]:
    """Return the images that the stages start from, as written, without the names of earlier stages."""
    stages: set[str] = set()
    images = []
    for each in instructions:
        if each.word == "FROM":
            image, *more = each.rest.split() or [""]
            if image.lower() not in stages and image != "scratch":
                images.append(image)
            if len(more) == 2 and more[0].lower() == "as":
                stages.add(more[1].lower())
    return list(dict.fromkeys(images))


def sources_read(instructions: list[Instruction]) -> list[str] | None:
    """Return the paths of the context that COPY and ADD name; None if only buildah can tell what is read."""
    sources: list[str] = []
    for each in instructions:
        if "mount" in dict(each.flags) or (each.word == "ONBUILD"):
            return None
        if each.word not in {"COPY", "ADD"} or "from" in dict(each.flags):
            continue
        words = _words(each.rest)
        if words is None or any(set(word) & set("$<") for word in words[:-1]):
            return None
        sources += [word for word in words[:-1] if not re.match(r"[a-z]+://|git@", word)]
    return sources


def _words(rest: str) -> list[str] | None:
    try:
        if rest.startswith("["):
            words = json.loads(rest)
            return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None
        return shlex.split(rest)
    except ValueError:
        return None
