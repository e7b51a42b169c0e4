"""The table of sessions: only the lines in the window are made, and a change draws the cells that differ.

Textual's DataTable takes a second for each few thousand rows, and draws all of its lines after a change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.core.cells import CellContext
from tui.core.columns import place_columns
from tui.core.palette import Tone
from tui.core.session_list import GroupHeading
from tui.core.site_facts import SiteFacts
from tui.widgets.text_cells import fit_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual import events

    from tui.core.cells import Cell
    from tui.core.columns import PlacedColumn
    from tui.core.session_list import ListChange, ListState
    from tui.core.signs import Signs
    from tui.look import ScreenStyles

MARGIN = 2
"""Cells before the first column: the signs of the chosen and of the marked sessions."""


class SessionTable(ScrollView, can_focus=True):
    """The list of sessions, with the columns that fit. Line 0 of the widget is the heading."""

    DEFAULT_CSS = """
    SessionTable { width: 1fr; height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; }
    """

    class ChosenChanged(Message):
        """Another session is chosen, or the chosen one is different now."""

    class TitlePressed(Message):
        """The mouse was pressed on a column's title."""

        def __init__(self, sort: str) -> None:
            super().__init__()
            self.sort = sort

    class Opened(Message):
        """The mouse was pressed twice on a session."""

    def __init__(
        self,
        sessions: ListState,
        signs: Signs,
        look: Callable[[], ScreenStyles],
        *,
        columns: Sequence[str] = (),
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self.sessions = sessions
        self.columns = tuple(columns)
        self.site = SiteFacts()
        self._signs = signs
        self._look = look
        self._clock = clock
        self._placed: list[PlacedColumn] = []
        self._painted: dict[int, tuple[Cell, ...]] = {}
        """Cells of the lines as they were last drawn."""

    def on_mount(self) -> None:
        self.show(moved=True)

    def on_resize(self) -> None:
        self.place()

    def place(self) -> None:
        """Place the columns for the present width."""
        self._placed = place_columns(self.scrollable_content_region.width - MARGIN, self.columns)
        self._painted.clear()
        self.refresh()

    def apply(self, change: ListChange) -> None:
        """Draw what a change of the list has changed."""
        if change.moved:
            self.show(moved=True)
        for line in change.lines if not change.moved else ():
            self.refresh_cells(line)
        self.post_message(self.ChosenChanged())

    def show(self, *, moved: bool = False) -> None:
        """Bring the chosen line into the window; with `moved`, draw all lines again."""
        if moved:
            self._painted.clear()
            self.virtual_size = Size(0, self.sessions.line_count + 1)
            self.refresh()
        chosen, page = self.sessions.chosen_line, max(1, self.page)
        top = round(self.scroll_y)
        if chosen <= 1 < page:
            top = 0
        elif chosen < top:
            top = chosen
        elif chosen >= top + page:
            top = chosen - page + 1
        if top != round(self.scroll_y):
            self.scroll_to(y=top, animate=False, force=True, immediate=True)

    @property
    def page(self) -> int:
        """Number of lines below the heading."""
        return self.scrollable_content_region.height - 1

    def choose(self, line: int) -> None:
        """Choose the session on a line, and draw the two lines that differ."""
        former = self.sessions.chosen_line
        self.sessions.choose(line)
        self.show()
        for each in {former, self.sessions.chosen_line}:
            self.refresh_list_line(each)
        self.post_message(self.ChosenChanged())

    def refresh_list_line(self, line: int) -> None:
        """Draw a whole line again, if it is in the window."""
        row = line - round(self.scroll_y) + 1
        if 1 <= row < self.size.height:
            self.refresh(Region(0, row, self.size.width, 1))

    def refresh_cells(self, line: int) -> None:
        """Draw those cells of a line again whose content differs from what is on the screen."""
        row = line - round(self.scroll_y) + 1
        if not 1 <= row < self.size.height:
            return
        painted, cells = self._painted.get(line), self._cells(line)
        if painted is None or cells is None:
            self.refresh_list_line(line)
            return
        for placed, former, cell in zip(self._placed, painted, cells, strict=True):
            if former != cell:
                self.refresh(Region(MARGIN + placed.start, row, placed.width, 1))

    def refresh_times(self) -> None:
        """Draw the cells in the window whose text depends on the time, and has changed."""
        top = round(self.scroll_y)
        for line in range(top, min(top + self.page, self.sessions.line_count)):
            self.refresh_cells(line)

    def _cells(self, line: int) -> tuple[Cell, ...] | None:
        """Return the cells of a session's line; None for a heading."""
        identifier = self.sessions.line(line)
        if isinstance(identifier, GroupHeading):
            return None
        view, context = self.sessions.views[identifier], CellContext(self._clock(), self._signs, self.site)
        return tuple(placed.column.cell(view, context) for placed in self._placed)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if y == 0:
            return self._title_strip(width)
        line = round(self.scroll_y) + y - 1
        if line >= self.sessions.line_count:
            return Strip.blank(width, self._look().style(Tone.PLAIN))
        found = self.sessions.line(line)
        if isinstance(found, GroupHeading):
            return self._heading_strip(found, width)
        return self._session_strip(line, found, width)

    def _title_strip(self, width: int) -> Strip:
        style = self._look().panel(Tone.ACTIVE)
        segments = [Segment(" " * MARGIN, style)]
        for placed in self._placed:
            title = placed.column.title
            if placed.column.sort and placed.column.sort == self.sessions.sort:
                title += f" {self._signs.down if self.sessions.reverse else self._signs.up}"
            segments.append(Segment(fit_cells(title, placed.width, self._signs.cut) + " ", style))
        return Strip(segments).adjust_cell_length(width, style)

    def _heading_strip(self, heading: GroupHeading, width: int) -> Strip:
        style = self._look().panel(Tone.MUTED)
        text = f"  {heading.title} ({heading.count})"
        return Strip([Segment(fit_cells(text, width, self._signs.cut), style)], width)

    def _session_strip(self, line: int, identifier: str, width: int) -> Strip:
        cells = self._cells(line)
        assert cells is not None
        self._painted[line] = cells
        look, signs = self._look(), self._signs
        chosen = identifier == self.sessions.chosen
        plain = look.cursor if chosen else look.style(Tone.PLAIN)
        mark = signs.mark if identifier in self.sessions.marks else " "
        segments = [Segment((signs.cursor if chosen else " ") + mark, plain)]
        for placed, cell in zip(self._placed, cells, strict=True):
            style = plain if chosen else look.style(cell.tone)
            segments.append(Segment(fit_cells(cell.text, placed.width, signs.cut), style))
            segments.append(Segment(" ", plain))
        return Strip(segments).adjust_cell_length(width, plain)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._painted.clear()

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            for placed in self._placed:
                if placed.start <= event.x - MARGIN < placed.start + placed.width and placed.column.sort:
                    self.post_message(self.TitlePressed(placed.column.sort))
            return
        line = round(self.scroll_y) + event.y - 1
        if line < self.sessions.line_count:
            self.choose(line)
            if event.chain == 2:
                self.post_message(self.Opened())
