"""All that is known of one session, as `berth show` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Static

from broker.format import escape_controls
from tui.core.detail import detail_bars, detail_texts
from tui.core.palette import Tone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from textual.app import ComposeResult

    from broker.schema.sessions import SessionView
    from tui.core.signs import Signs
    from tui.core.site_facts import SiteFacts
    from tui.look import ScreenStyles

TITLE_CELLS = 11


class SessionDetail(VerticalScroll, can_focus=False):
    """Titles and texts of a session. It draws again only when a text differs."""

    DEFAULT_CSS = """
    SessionDetail { width: 1fr; height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    SessionDetail Static { width: 1fr; height: auto; }
    """

    def __init__(self, signs: Signs, look: Callable[[], ScreenStyles], *, clock: Callable[[], float]) -> None:
        super().__init__()
        self._signs = signs
        self._look = look
        self._clock = clock
        self._body = Static()
        self._shown: object = None

    def compose(self) -> ComposeResult:
        yield self._body

    def show(self, view: SessionView | None, site: SiteFacts) -> None:
        """Show the session, or a hint if there is none."""
        look = self._look()
        rows = [] if view is None else session_rows(view, site, self._clock(), self._signs)
        if (view and view.name, rows, look) != self._shown:
            self._shown = (view and view.name, rows, look)
            self._body.update("no session is chosen" if view is None else session_content(view.name, rows, look))


def session_rows(view: SessionView, site: SiteFacts, now: float, signs: Signs) -> list[tuple[str, str]]:
    """Return the titles and texts of a session, with its bars."""
    return [*detail_bars(view, now, signs), *detail_texts(view, site, now)]


def session_content(name: str, rows: Iterable[tuple[str, str]], look: ScreenStyles) -> Group:
    """Return the page of a session in the styles of the look. Long texts continue below their beginning."""
    page = Table.grid(expand=True)
    page.add_column(width=TITLE_CELLS)
    page.add_column(ratio=1, overflow="fold")
    for title, content in rows:
        page.add_row(Text(title, look.style(Tone.MUTED)), Text(content, look.style(Tone.PLAIN)))
    return Group(Text(escape_controls(name), look.style(Tone.ACTIVE)), page)
