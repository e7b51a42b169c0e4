"""Problems of a profile's text, which are reported together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.errors import ProfileError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


MAX_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: its line, from 1 (0 for the file as a whole), and the remedy, which may be empty."""

    line: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.message}{f'; {self.hint}' if self.hint else ''}"


def problems_error(problems: Iterable[Problem], file: Path) -> ProfileError:
    """Return the error with all problems, of which there is at least one, in the order of their lines."""
    ordered = sorted(dict.fromkeys(problems), key=lambda problem: problem.line)
    first = ordered[0]
    if len(ordered) == 1:
        return ProfileError(first.message, file=file, line=first.line, hint=first.hint)
    more = [f"and {len(ordered) - MAX_SHOWN_PROBLEMS} more"] if len(ordered) > MAX_SHOWN_PROBLEMS else []
    text = "\n  ".join([f"{len(ordered)} faults", *map(str, ordered[:MAX_SHOWN_PROBLEMS]), *more])
    error = ProfileError(text, file=file, hint="correct all of them; nothing was built")
    error.line = first.line
    return error
