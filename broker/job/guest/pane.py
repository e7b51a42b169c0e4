"""A pane of the owner's tmux, as the programs that show it ask for it.

It is one of the programs of broker/job/guest: Python's standard library alone, and Python 3.8 (`program.py`).
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

TMUX_LIMIT_S = 5.0
"""Seconds in which tmux must answer."""

_STATE = (
    "#{pane_width} #{pane_height} #{cursor_x} #{cursor_y} #{cursor_flag} #{alternate_on} #{history_size}"
    " #{?window_active_clients,1,0} #{@berth_keyboard}"
)


class TmuxPane(NamedTuple):
    """A pane of the owner's tmux server."""

    server: str
    """The path of the server's socket."""
    id: str

    def tmux(self, *words: str) -> str:
        """Return the output of a command of tmux. OSError or SubprocessError if it fails."""
        done = subprocess.run(
            ["tmux", "-S", self.server, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TMUX_LIMIT_S,
            check=True,
        )
        return done.stdout.decode("utf-8", "replace")

    def ask(self, form: str) -> str:
        return self.tmux("display-message", "-p", "-t", self.id, form).strip()

    def socket(self, base: Path) -> Path:
        return base / "node" / "shown" / f"{self.id[1:]}.sock"


class PaneState(NamedTuple):
    """The state of a pane, without its content."""

    columns: int
    lines: int
    cursor: tuple[int, int]
    """Column and line, from 0."""
    has_cursor: bool
    is_alternate: bool
    """Whether the pane is on its alternate screen."""
    history: int
    """Lines that have left the screen and are kept."""
    is_seen: bool
    """Whether a client of tmux shows the pane's window now."""
    keyboard: str
    """The guest who has the keyboard; empty: the owner alone."""

    @classmethod
    def read(cls, pane: TmuxPane, *command: str) -> tuple[PaneState, list[str]]:
        """Return the state, and the lines that `command` of tmux prints at the same moment. Raises as TmuxPane.tmux."""
        more = (";", *command) if command else ()
        state, *lines = pane.tmux("display-message", "-p", "-t", pane.id, _STATE, *more).split("\n")
        *numbers, keyboard = state.split(" ")
        columns, rows, x, y, has_cursor, is_alternate, history, is_seen = (int(each or 0) for each in numbers)
        return cls(columns, rows, (x, y), bool(has_cursor), bool(is_alternate), history, bool(is_seen), keyboard), lines

    def has_form_of(self, other: PaneState) -> bool:
        """Whether size and kind of screen are the same: tmux moves and wraps lines of the history when they change."""
        return (self.columns, self.lines, self.is_alternate) == (other.columns, other.lines, other.is_alternate)
