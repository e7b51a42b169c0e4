"""Replace what a terminal without Unicode cannot show, cell by cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.segment import Segment
from textual.filter import LineFilter

if TYPE_CHECKING:
    from textual.color import Color

_SIGNS = {
    **dict.fromkeys("─━═╌┄▔▁╶╴⎯", "-"),
    **dict.fromkeys("│┃║▏▎▕▐▌┊", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╯╰╔╗╚╝╠╣╦╩╬┏┓┗┛", "+"),
    **dict.fromkeys("█▇▆▅▄▃▂▀■▓", "#"),
    **dict.fromkeys("░▒·", "."),
    **dict.fromkeys("●•◉✓✔", "*"),
    "…": "~",
    **dict.fromkeys("→▶▸", ">"),
    **dict.fromkeys("←◀", "<"),
    "▲": "^",
    "▼": "v",
    **dict.fromkeys("“”", '"'),
    **dict.fromkeys("\u2018\u2019", "'"),
}  # fmt: skip


def to_ascii(text: str) -> str:
    """Return the text with the same number of cells, and ASCII characters only."""
    if text.isascii():
        return text
    return "".join(char if char.isascii() else _SIGNS.get(char, "?" * cell_len(char)) for char in text)


class AsciiFilter(LineFilter):
    """Applied to each line before it is sent to the terminal."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        del background
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]
