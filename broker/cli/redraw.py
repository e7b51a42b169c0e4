"""Lines on a terminal that are drawn again in place."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from broker.cli.output import shorten, write
from broker.format import escape_controls

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLEAR_SCREEN, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H\x1b[2J", "\x1b[K", "\x1b[J"


class RedrawnLines:
    """A block of lines at the end of the terminal's text. Between two drawings the cursor is below the block.

    The terminal's modes are not changed, so that a program that ends at any time leaves it intact.
    """

    def __init__(self) -> None:
        self._drawn = 0
        """The number of lines on the screen."""
        self._size: tuple[int, int] | None = None

    def draw(self, lines: Sequence[str]) -> None:
        """Replace the block. Lines that do not fit the terminal are cut; the last one tells how many are missing."""
        size = shutil.get_terminal_size()
        room = max(size.lines - 1, 1)
        shown = [shorten(escape_controls(line), size.columns) for line in lines]
        if len(shown) > room:
            shown[room - 1 :] = [shorten(f"… {len(shown) - room + 1} more lines", size.columns)]
        if self._size not in {None, (size.columns, size.lines)}:
            begin = _CLEAR_SCREEN  # the terminal has wrapped the former lines again
        else:
            begin = f"\x1b[{self._drawn}A\r" if self._drawn else "\r"
        self._drawn, self._size = len(shown), (size.columns, size.lines)
        write(begin + "".join(f"{line}{_CLEAR_LINE}\n" for line in shown) + _CLEAR_BELOW)
