"""A screen that shows a text: the help, the details of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from tui.core.keys import CLOSE_KEYS

if TYPE_CHECKING:
    from rich.console import RenderableType
    from textual.app import ComposeResult


class TextScreen(Screen[None], inherit_bindings=False):
    """A title and a text that scrolls; Esc, q or Enter close it."""

    DEFAULT_CSS = """
    TextScreen { align: center middle; background: $background; }
    TextScreen > Static { height: 1; width: 1fr; background: $surface; color: $primary; padding: 0 1; }
    TextScreen VerticalScroll { width: 1fr; height: 1fr; padding: 0 1; background: $background; }
    TextScreen VerticalScroll Static { width: 1fr; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(",".join(CLOSE_KEYS.keys), CLOSE_KEYS.action, CLOSE_KEYS.title, show=False),
        Binding("down,j", "scroll(1)", "down", show=False),
        Binding("up,k", "scroll(-1)", "up", show=False),
        Binding("pagedown,space,ctrl+d,ctrl+f", "scroll_page(1)", "next page", show=False),
        Binding("pageup,ctrl+u", "scroll_page(-1)", "previous page", show=False),
        Binding("ctrl+c", "app.quit", "quit", show=False),
    ]

    def __init__(self, title: str, text: RenderableType) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        yield Static(f"{self._title} (Esc closes)", markup=False)
        with VerticalScroll():
            yield Static(self._text)

    def action_close(self) -> None:
        self.dismiss()

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def action_scroll_page(self, pages: int) -> None:
        body = self.query_one(VerticalScroll)
        body.scroll_relative(y=pages * max(1, body.size.height - 1), animate=False)
