"""The ignore file of a build context: which of its files a build cannot read."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.errors import ProfileError
from profiles.userfile import is_file, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IGNORE_FILES = (".containerignore", ".dockerignore")
"""In the order in which buildah looks for them; only the first counts."""
MAX_IGNORE_BYTES = 256 << 10
MAX_IGNORE_PATTERNS = 1000
MAX_STARS = 12
"""`*` in one pattern: a search with many takes for ever."""


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules of an ignore file, in their order: whether each ignores or brings back, and what it matches."""

    rules: tuple[tuple[bool, re.Pattern[str]], ...] = ()

    def ignores(self, path: str) -> bool:
        """Whether a build does not read the file at this path of the context. The last rule that matches decides."""
        ignored = False
        for ignores, pattern in self.rules:
            if pattern.fullmatch(path):
                ignored = ignores
        return ignored


def find_ignore_file(context: Path) -> Path | None:
    """Return the ignore file of a context; None if it has none."""
    return next((context / name for name in IGNORE_FILES if is_file(context / name)), None)


def read_ignore_file(file: Path | None) -> IgnoreRules:
    """Read an ignore file. Raises ProfileError."""
    if file is None:
        return IgnoreRules()
    try:
        lines = read_text(file, MAX_IGNORE_BYTES, own=False, follow=True).splitlines()
    except OSError as error:
        raise ProfileError(error.strerror or "cannot be read", file=file) from error
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if len(patterns) > MAX_IGNORE_PATTERNS or any(text.count("*") > MAX_STARS for text in patterns):
        raise ProfileError(f"has too many patterns, or too many `*` in one: {len(patterns)} patterns", file=file)
    return IgnoreRules(tuple((not text.startswith("!"), path_pattern(text.removeprefix("!"))) for text in patterns))


def path_pattern(text: str) -> re.Pattern[str]:
    """Return the expression for paths that a pattern of an ignore file names, and for all below them.

    `*` and `?` stay within a name, `**` crosses names, `[a-c]` is one character.
    """
    plain = posixpath.normpath(text.strip()).lstrip("/")
    try:
        return re.compile(f"{_expression(plain)}(?:/.*)?", re.DOTALL)
    except re.error:  # such as [z-a], which matches nothing but itself
        return re.compile(re.escape(plain))


def is_source(sources: Sequence[str], path: str) -> bool:
    """Whether a file of the context is one of these sources of COPY, or lies in one."""
    return any(posixpath.normpath(source) in {".", "/"} or path_pattern(source).fullmatch(path) for source in sources)


def _expression(pattern: str) -> str:
    parts = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
        elif pattern.startswith("**", at):
            parts.append(".*")
            at += 2
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "")
            negated = inside.startswith("^")
            body = re.sub(r"([\[\]&~|^])", r"\\\1", inside.removeprefix("^"))
            parts.append(f"[{'^' if negated else ''}{body}]")
            at = end + 1
        elif pattern[at] == "\\" and at + 1 < len(pattern):
            parts.append(re.escape(pattern[at + 1]))
            at += 2
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(pattern[at], re.escape(pattern[at])))
            at += 1
    return "".join(parts)
