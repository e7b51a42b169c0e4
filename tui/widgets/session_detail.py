"""All that is known of one session, as `berth show` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Static

from broker.format import escape_controls
from tui.core.detail import detail_bars, detail_texts
from tui.core.palette import Tone

if TYPE_CHECKING:
    from collections.abc import Callable

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
        text = Text("no session is chosen")
        if view is not None:
            text = session_text(view, site, self._clock(), look, self._signs)
        if (text, look) != self._shown:
            self._shown = (text, look)
            self._body.update(text)


def session_text(view: SessionView, site: SiteFacts, now: float, look: ScreenStyles, signs: Signs) -> Text:
    """Return the page of a session with its bars, in the styles of the look."""
    text = Text(f"{escape_controls(view.name)}\n", look.style(Tone.ACTIVE))
    for title, content in (*detail_bars(view, now, signs), *detail_texts(view, site, now)):
        text.append(f"{title:<{TITLE_CELLS}}", look.style(Tone.MUTED))
        text.append(f"{content}\n", look.style(Tone.PLAIN))
    return text
