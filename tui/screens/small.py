"""The sentence for windows in which nothing can be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Static

if TYPE_CHECKING:
    from textual.app import ComposeResult

MIN_COLUMNS, MIN_LINES = 60, 15
TOO_SMALL = f"Berth needs a window of {MIN_COLUMNS} columns and {MIN_LINES} lines. Enlarge it, or press q to quit."


class SmallScreen(Screen[None], inherit_bindings=False):
    """Covers everything, and takes all keys but those that quit: an action would not be visible."""

    DEFAULT_CSS = """
    SmallScreen { background: $background; align: left top; }
    SmallScreen Static { width: 1fr; height: auto; background: $background; color: $foreground; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,ctrl+c", "app.quit", "quit", show=False)]

    def compose(self) -> ComposeResult:
        yield Static(TOO_SMALL, markup=False)
