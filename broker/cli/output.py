"""Print results to stdout and messages to stderr, and escape control characters in untrusted text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel


def escape_controls(text: str, *, keep: str = "") -> str:
    """Escape control, format and bidirectional characters except those in `keep`.

    Untrusted names, reasons and logs then cannot move the cursor or imitate other text (docs/security.md, T18).
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode("ascii") for char in text
    )


def print_line(text: str) -> None:
    """Print a line of a result."""
    click.echo(escape_controls(text))


def print_note(text: str) -> None:
    """Print a message on stderr."""
    click.echo(escape_controls(text), err=True)


def print_json(value: BaseModel | Mapping[str, object] | Sequence[object]) -> None:
    """Print a result as indented JSON in ASCII, which also escapes control characters."""
    plain = value if isinstance(value, (dict, list)) else value.model_dump(mode="json")  # type: ignore[union-attr]
    click.echo(json.dumps(plain, indent=2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns, two blanks apart. The headings are printed even without rows, for scripts."""
    cells = [[escape_controls(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def pluralize(count: int, what: str) -> str:
    """Return `1 layer` or `2 layers`."""
    return f"{count} {what}{'' if count == 1 else 's'}"
