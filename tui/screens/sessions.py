"""The main screen: the list of sessions, the details of the chosen one, and the status line."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen

from broker.format import escape_controls
from tui.core.columns import ALL_COLUMNS, REQUIRED
from tui.core.keys import LIST_KEYS
from tui.core.palette import Tone
from tui.core.session_list import GROUPS, SORT_KEYS, ListState
from tui.core.summary import chosen_line, title_line
from tui.screens.chooser import Choice, ChooserScreen
from tui.screens.help_text import help_text
from tui.screens.text_screen import TextScreen
from tui.widgets.filter_field import FilterField
from tui.widgets.session_detail import SessionDetail, session_content, session_rows
from tui.widgets.session_table import SessionTable
from tui.widgets.status_line import TextLine

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult

    from tui.app import BerthApp
    from tui.core.session_list import ListChange
    from tui.core.site_facts import SiteFacts

DETAIL_COLUMNS = 120
"""Width of the window from which the details are beside the list."""

HINT = "Enter details  / filter  Space mark  : actions  ? keys  q quit"


def bind_list_key(keys: str, action: str, title: str) -> tuple[Binding, Binding]:
    """Return the bindings of a key of the list.

    The one with priority has its effect before the next key is read, so that keys that arrive together act in the order
    in which they were typed. It holds while the list has the focus; the other one is for keys that the filter leaves.
    """
    return (
        Binding(keys, f"at_once({action!r})", title, show=False, priority=True),
        Binding(keys, action, title, show=False),
    )


class SessionsScreen(Screen[None], inherit_bindings=False):
    """The list and what belongs to it. It owns the ListState; workers reach it by messages only."""

    DEFAULT_CSS = """
    SessionsScreen { layout: vertical; background: $background; }
    SessionsScreen Input { border: none; height: 1; width: 1fr; padding: 0; display: none; background: $background; }
    SessionsScreen SessionTable { width: 3fr; }
    SessionsScreen SessionDetail { width: 2fr; border-left: solid $border; display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        each for binding in LIST_KEYS for each in bind_list_key(",".join(binding.keys), binding.action, binding.title)
    ]
    AUTO_FOCUS = "SessionTable"

    def __init__(self, owner: BerthApp) -> None:
        super().__init__()
        settings = owner.settings
        self.sessions = ListState(settings.sort, settings.group, reverse=settings.reverse)
        self.title_line = TextLine(owner.signs, owner.get_look)
        self.status_line = TextLine(owner.signs, owner.get_look)
        self.hint_line = TextLine(owner.signs, owner.get_look)
        self.table = SessionTable(
            self.sessions, owner.signs, owner.get_look, columns=settings.columns, clock=owner.clock
        )
        self.detail = SessionDetail(owner.signs, owner.get_look, clock=owner.clock)
        self.filter_field = FilterField(self._leave_filter, self.action_clear)
        self._owner = owner
        for action in owner.catalogue.actions:
            for each in bind_list_key(action.key, f"catalogue('{action.id}')", action.title) if action.key else ():
                self._bindings.bind(each.key, each.action, each.description, show=False, priority=each.priority)

    def compose(self) -> ComposeResult:
        yield self.title_line
        yield self.filter_field
        with Horizontal():
            yield self.table
            yield self.detail
        yield self.status_line
        yield self.hint_line

    def on_mount(self) -> None:
        self.hint_line.show(HINT, Tone.MUTED)
        self.show_lines()
        self._arrange()

    def on_resize(self, event: events.Resize) -> None:
        self._arrange(event.size.width)

    def apply(self, change: ListChange) -> None:
        """Draw a change of the list."""
        self.table.apply(change)

    def on_session_table_chosen_changed(self) -> None:
        self.show_lines()

    def show_lines(self) -> None:
        """Draw the title, the status line and the details, where they differ from what is shown."""
        now = self._owner.clock()
        self.title_line.show(title_line(self.sessions), note=self._owner.connection.describe(now))
        view = self.sessions.chosen_view
        text = chosen_line(self.sessions, now) if self._owner.has_news else self._owner.connection.cause
        self.status_line.show(text, Tone.PLAIN if view is not None else Tone.MUTED)
        if self.detail.display:
            self.detail.show(view, self._owner.site)

    def show_site(self, site: SiteFacts) -> None:
        """Draw what depends on the site."""
        self.table.site = site
        self.show_times()

    def show_times(self) -> None:
        """Draw what has changed by the passing of time alone."""
        self.table.refresh_times()
        self.show_lines()

    def restyle(self) -> None:
        """Draw everything in the present look."""
        self.show_lines()
        for widget in (self.table, self.title_line, self.status_line, self.hint_line):
            widget.refresh()

    def _arrange(self, width: int | None = None) -> None:
        wide = (self.size.width if width is None else width) >= DETAIL_COLUMNS
        self.detail.display = wide and self._owner.settings.detail
        self.show_lines()

    # Keys in the order in which they were typed

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave the keys to the filter while it has the focus; those that it does not use come back."""
        del parameters
        return action != "at_once" or self.focused is self.table

    async def action_at_once(self, action: str) -> None:
        await self.run_action(action)

    # Moving

    def action_move(self, step: int) -> None:
        self.table.choose(self.sessions.chosen_line + step)

    def action_move_page(self, pages: int) -> None:
        self.table.choose(self.sessions.chosen_line + pages * max(1, self.table.page - 1))

    def action_move_to(self, line: int) -> None:
        self.table.choose(line if line >= 0 else self.sessions.line_count - 1)

    # The list

    def action_filter(self) -> None:
        self.filter_field.display = True
        self.set_focus(self.filter_field)  # before the next key is read

    def on_input_changed(self) -> None:
        self._apply_filter()

    def _apply_filter(self) -> None:
        """Show what the whole text of the field selects: the messages of several keys may still be on their way."""
        if self.filter_field.value != self.sessions.filter:
            self.apply(self.sessions.set_filter(self.filter_field.value))

    def _leave_filter(self) -> None:
        self._apply_filter()
        self.filter_field.display = bool(self.sessions.filter)
        self.set_focus(self.table)

    def action_clear(self) -> None:
        """Remove the filter if there is one, else the marks."""
        if self.sessions.filter or self.focused is self.filter_field:
            self.filter_field.value = ""
            self._leave_filter()
        elif self.sessions.marks:
            self.sessions.marks.clear()
            self.table.show(moved=True)
            self.show_lines()

    def action_mark(self) -> None:
        if self.sessions.chosen is not None:
            self.sessions.toggle_mark(self.sessions.chosen)
            self.table.refresh_list_line(self.sessions.chosen_line)
            self.show_lines()

    def action_mark_shown(self) -> None:
        self.sessions.mark_shown()
        self.table.show(moved=True)
        self.show_lines()

    def action_next_sort(self) -> None:
        keys = list(SORT_KEYS)
        self._sort(keys[(keys.index(self.sessions.sort) + 1) % len(keys)], reverse=False)

    def action_reverse_sort(self) -> None:
        self._sort(self.sessions.sort, reverse=not self.sessions.reverse)

    def on_session_table_title_pressed(self, event: SessionTable.TitlePressed) -> None:
        self._sort(event.sort, reverse=event.sort == self.sessions.sort and not self.sessions.reverse)

    def _sort(self, sort: str, *, reverse: bool) -> None:
        self.apply(self.sessions.sort_by(sort, reverse=reverse))
        self._owner.keep(replace(self._owner.settings, sort=sort, reverse=reverse))

    def action_next_group(self) -> None:
        names = list(GROUPS)
        group = names[(names.index(self.sessions.group) + 1) % len(names)]
        self.apply(self.sessions.group_by(group))
        self._owner.keep(replace(self._owner.settings, group=group))

    # Views

    def on_session_table_opened(self) -> None:
        self.action_details()

    def action_details(self) -> None:
        view = self.sessions.chosen_view
        if view is not None:
            owner = self._owner
            rows = session_rows(view, owner.site, owner.clock(), owner.signs)
            page = session_content(view.name, rows, owner.get_look())
            owner.push_screen(TextScreen(f"session {escape_controls(view.name)}", page))

    def action_toggle_detail(self) -> None:
        self._owner.keep(replace(self._owner.settings, detail=not self._owner.settings.detail))
        self._arrange()

    def action_columns(self) -> None:
        chosen = self.table.columns or tuple(column.id for column in ALL_COLUMNS)
        choices = [
            Choice(column.id, column.title, "shown" if column.id in chosen else "")
            for column in ALL_COLUMNS
            if column.id not in REQUIRED
        ]
        self._owner.push_screen(ChooserScreen("show or hide a column", choices), self._toggle_column)

    def _toggle_column(self, identifier: str | None) -> None:
        if identifier is None:
            return
        chosen = set(self.table.columns or (column.id for column in ALL_COLUMNS)) ^ {identifier}
        columns = tuple(column.id for column in ALL_COLUMNS if column.id in chosen or column.id in REQUIRED)
        self.table.columns = columns
        self.table.place()
        self._owner.keep(replace(self._owner.settings, columns=columns))

    def action_next_theme(self) -> None:
        self._owner.next_theme()

    # Everything else

    def action_help(self) -> None:
        self._owner.push_screen(TextScreen("keys", help_text(self._owner.catalogue, self._owner.get_look())))

    def action_palette(self) -> None:
        self._owner.push_screen(
            ChooserScreen("actions", self._owner.choices(self.sessions.targets())), self._run_choice
        )

    def _run_choice(self, identifier: str | None) -> None:
        if identifier is not None:
            self.action_catalogue(identifier)

    def action_catalogue(self, identifier: str) -> None:
        self._owner.run_catalogue_action(identifier, self.sessions.targets())

    def action_reconnect(self) -> None:
        self._owner.reconnect()

    def action_redraw(self) -> None:
        self._owner.redraw()

    def action_quit(self) -> None:
        self._owner.exit()
