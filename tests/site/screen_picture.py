"""A picture of an emulated terminal's screen: SVG with text only, its colours, and no font of its own."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyte.screens import Char, Screen

LINE, COLUMN, MARGIN, SIZE = 18, 7.8, 12, 13
"""Height of a line, width of a column, margin and size of the font, in pixels."""
DEFAULT_COLORS = {"fg": "#d5dae0", "bg": "#1b1f24"}
"""Colours of cells for which the program sets none."""
_WORDS = re.compile(r"\S+(?: \S+)*")


@dataclass(frozen=True, slots=True)
class CellRun:
    """Neighbouring cells of one style."""

    column: int
    text: str
    color: str
    background: str
    bold: bool


def screen_svg(screen: Screen, title: str) -> str:
    """Return the picture. `title` is for readers who do not see it."""
    lines = [list(_runs(screen, number)) for number in range(screen.lines)]
    background = _usual_background(lines)
    width, height = screen.columns * COLUMN + 2 * MARGIN, screen.lines * LINE + 2 * MARGIN
    parts = [part for number, runs in enumerate(lines) for part in _line_parts(number, runs, background)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_number(width)} {height}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="100%" height="100%" rx="8" fill="{background}"/>',
            f'<g xml:space="preserve" font-family="monospace" font-size="{SIZE}">',
            *parts,
            "</g>",
            "</svg>\n",
        ]
    )


def _runs(screen: Screen, number: int) -> Iterator[CellRun]:
    cells = [screen.buffer[number][column] for column in range(screen.columns)]
    column = 0
    for (color, background, bold), group in groupby(cells, _style):
        text = "".join(cell.data for cell in group)
        yield CellRun(column, text, color, background, bold)
        column += len(text)


def _style(cell: Char) -> tuple[str, str, bool]:
    color, background = _color(cell.fg, "fg"), _color(cell.bg, "bg")
    return (background, color, cell.bold) if cell.reverse else (color, background, cell.bold)


def _color(name: str, layer: str) -> str:
    """Return a colour of SVG: pyte has 24-bit colours as digits without `#`, and others by name."""
    if name == "default":
        return DEFAULT_COLORS[layer]
    return f"#{name}" if len(name) == len("rrggbb") and all(char in "0123456789abcdef" for char in name) else name


def _usual_background(lines: list[list[CellRun]]) -> str:
    counts = Counter[str]()
    for runs in lines:
        for run in runs:
            counts[run.background] += len(run.text)
    return counts.most_common(1)[0][0]


def _line_parts(number: int, runs: list[CellRun], usual: str) -> Iterator[str]:
    """Yield the coloured backgrounds of a line, and its text."""
    top = MARGIN + number * LINE
    for run in runs:
        if run.background != usual:
            place = f'x="{_x(run.column)}" y="{top}" width="{_number(len(run.text) * COLUMN)}" height="{LINE}"'
            yield f'<rect {place} fill="{run.background}"/>'
    spans = "".join(span for run in runs for span in _spans(run))
    if spans:
        yield f'<text y="{top + SIZE}">{spans}</text>'


def _spans(run: CellRun) -> Iterator[str]:
    """Yield the texts between wider gaps. Each is at its column, whatever width the reader's font has."""
    weight = ' font-weight="bold"' if run.bold else ""
    for found in _WORDS.finditer(run.text):
        place = f'x="{_x(run.column + found.start())}" fill="{run.color}"{weight}'
        yield f"<tspan {place}>{escape(found[0])}</tspan>"


def _x(column: int) -> str:
    return _number(MARGIN + column * COLUMN)


def _number(value: float) -> str:
    """Return a number with one digit after the point at most."""
    return f"{value:.1f}".removesuffix(".0")
