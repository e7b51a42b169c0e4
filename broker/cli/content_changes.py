"""Changes of the content of images, as lines with A for added, M for modified and D for deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from broker.cli import output
from broker.format import escape_controls

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN_DIGEST = 12
"""Characters of a file's digest, as git shows of a commit's at least."""


class ShownChange(Protocol):
    """A package or an executable that differs."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def before(self) -> str: ...
    @property
    def after(self) -> str: ...


def print_content_changes(changes: Iterable[ShownChange]) -> None:
    """Print a line for each package and each executable that differs."""
    for each in changes:
        shown = [text[:SHOWN_DIGEST] if each.kind == "file" else text for text in (each.before, each.after)]
        print_change(f"{each.kind} {each.name}", *shown)


def print_change(what: str, before: str, after: str) -> None:
    """Print one line."""
    change = "M" if before and after else "A" if after else "D"
    output.write(f"{change}\t{escape_controls(what)} {escape_controls(' -> '.join(filter(None, (before, after))))}\n")
