"""Lines above and below the list: the title, the chosen session, the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from tui.core.palette import Tone
from tui.widgets.text_cells import fit_cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from tui.core.signs import Signs
    from tui.look import ScreenStyles


class TextLine(Widget):
    """One line of text at the left, and a note at the right that is never cut."""

    DEFAULT_CSS = """
    TextLine { height: 1; width: 1fr; }
    """

    def __init__(self, signs: Signs, look: Callable[[], ScreenStyles]) -> None:
        super().__init__()
        self._signs = signs
        self._look = look
        self._shown = ("", Tone.PLAIN, "", Tone.PLAIN)

    @property
    def text(self) -> str:
        return self._shown[0]

    @property
    def note(self) -> str:
        return self._shown[2]

    def show(self, text: str, tone: Tone = Tone.PLAIN, *, note: str = "", note_tone: Tone = Tone.WARNING) -> None:
        """Show texts without control characters; nothing is drawn if they are the same as before."""
        shown = (text, tone, note, note_tone)
        if shown != self._shown:
            self._shown = shown
            self.refresh()

    def render_line(self, y: int) -> Strip:
        del y
        text, tone, note, note_tone = self._shown
        width, look = self.size.width, self._look()
        note = fit_cells(note, width, self._signs.cut).rstrip() if len(note) > width else note
        room = max(0, width - len(note) - (2 if note else 0))
        segments = [Segment(fit_cells(text, room, self._signs.cut), look.panel(tone))]
        if note:
            segments.append(Segment(f"  {note}", look.panel(note_tone)))
        return Strip(segments).adjust_cell_length(width, look.panel())
