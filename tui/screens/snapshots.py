"""The snapshots of a session as a tree, and the actions on them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from broker.errors import BerthError
from broker.format import escape_controls
from tui.core.outcome import describe_error
from tui.core.snapshot_tree import snapshot_sizes, snapshot_tree, tree_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from textual.app import ComposeResult

    from broker.schema.sessions import SessionView
    from broker.schema.volumes import SnapshotView
    from tui.core.snapshot_tree import SnapshotNode
    from tui.workers.requests import RequestWorker

PRESENT = "present state"
_MARK = "*"
_MARGIN = 4
"""Columns for the mark and a scroll bar."""


class SnapshotsScreen(ModalScreen[None], inherit_bindings=False):
    """Stays open while its actions run, and reads the snapshots again after each.

    `act` runs an action of the catalogue for the session: its id, the texts of its form, and a function to call at its
    end. `delete` deletes a snapshot.
    """

    DEFAULT_CSS = """
    SnapshotsScreen { layout: vertical; background: $background; }
    SnapshotsScreen > Static { height: 1; width: 1fr; padding: 0 1; background: $background; color: $foreground; }
    SnapshotsScreen > .title { background: $surface; color: $primary; }
    SnapshotsScreen > .headings { color: $text-muted; padding: 0 1 0 2; }
    SnapshotsScreen > .hint { color: $text-muted; height: auto; }
    SnapshotsScreen OptionList, SnapshotsScreen OptionList:focus {
        border: none; height: 1fr; width: 1fr; padding: 0; background: $background;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "close", show=False),
        Binding("j", "move(1)", "down", show=False),
        Binding("k", "move(-1)", "up", show=False),
        Binding("S", "snapshot", "take a snapshot", show=False),
        Binding("b", "rollback", "roll back to it", show=False),
        Binding("c", "clone", "clone it", show=False),
        Binding("space", "mark", "mark it for a comparison", show=False),
        Binding("f", "diff", "compare", show=False),
        Binding("D", "delete", "delete it", show=False),
        Binding("u", "sizes", "measure the sizes", show=False),
        Binding("r", "reload", "read again", show=False),
        Binding("ctrl+c", "app.quit", "quit", show=False),
    ]

    def __init__(
        self,
        session: SessionView,
        requests: RequestWorker,
        act: Callable[[str, Mapping[str, str], Callable[[], None]], None],
        delete: Callable[[str, Callable[[], None]], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._session = session
        self._requests = requests
        self._act = act
        self._delete = delete
        self._clock = clock
        self._snapshots: list[SnapshotView] = []
        self._tree: list[SnapshotNode] = []
        self._sizes: dict[int, int] | None = None
        self._marked: int | None = None

    def compose(self) -> ComposeResult:
        yield Static(f"snapshots of {self._session.name}", classes="title", id="title", markup=False)
        yield Static("", classes="headings", id="headings", markup=False)
        yield OptionList(markup=False)
        yield Static(
            "Esc closes  S snapshot  b roll back  c clone  f compare  Space mark one to compare  D delete  u sizes",
            classes="hint",
            markup=False,
        )

    def on_resize(self) -> None:
        if self._tree:
            self._show()

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()
        self.action_reload()

    def action_reload(self) -> None:
        """Read the snapshots again."""
        self.run_worker(self._load(), exclusive=True)

    async def _load(self) -> None:
        try:
            self._snapshots = await self._requests.read(lambda client: client.snapshots(self._session.name))
        except BerthError as error:
            self._title(describe_error(error))
            return
        self._title("" if self._snapshots else "none yet; S takes one")
        self._show()

    def action_sizes(self) -> None:
        self._title("measuring the sizes; this may take minutes")
        self.run_worker(self._measure())

    async def _measure(self) -> None:
        try:
            report = await self._requests.read(lambda client: client.size(self._session.name))
        except BerthError as error:
            self._title(describe_error(error))
            return
        self._sizes = snapshot_sizes(report)
        self._title("SIZE is what a deletion would free")
        self._show()

    def _title(self, note: str) -> None:
        text = f"snapshots of {self._session.name}{f': {note}' if note else ''}"
        self.query_one("#title", Static).update(escape_controls(text))

    def _show(self) -> None:
        """Draw the tree, and keep the chosen snapshot."""
        options = self.query_one(OptionList)
        before = options.highlighted or 0
        self._tree = snapshot_tree(self._snapshots, self._clock(), sizes=self._sizes)
        headings, lines = tree_lines(self._tree, max(self.size.width - _MARGIN, 1))
        self.query_one("#headings", Static).update(headings)
        options.clear_options()
        for node, line in zip(self._tree, lines, strict=True):
            mark = _MARK if node.snapshot.number == self._marked else " "
            options.add_option(Option(Text(f"{mark} {line}", no_wrap=True)))
        options.add_option(Option(Text(f"  {PRESENT}")))
        options.highlighted = min(before, len(self._tree))

    def _chosen_number(self) -> str:
        """Return the number of the chosen snapshot; empty for the present state."""
        index = self.query_one(OptionList).highlighted
        return str(self._tree[index].snapshot.number) if index is not None and index < len(self._tree) else ""

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        options.highlighted = min(max((options.highlighted or 0) + step, 0), len(self._tree))

    def action_close(self) -> None:
        self.dismiss()

    def action_snapshot(self) -> None:
        self._act("snapshot", {}, self.action_reload)

    def action_rollback(self) -> None:
        if number := self._needs_snapshot():
            self._act("rollback", {"snapshot": number}, self.action_reload)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.action_mark()

    def action_clone(self) -> None:
        self._act("clone", {"snapshot": self._chosen_number()}, self.action_reload)

    def action_mark(self) -> None:
        """Mark the snapshot to compare with, or remove its mark."""
        number = self._chosen_number()
        self._marked = None if not number or int(number) == self._marked else int(number)
        self._show()

    def action_diff(self) -> None:
        """Compare the marked snapshot, or else the profile, with the chosen one."""
        since, until = "" if self._marked is None else str(self._marked), self._chosen_number()
        if since == until and since:
            self.notify("mark another snapshot with Space first", severity="warning", markup=False)
            return
        if until and since and int(until) < int(since):
            since, until = until, since
        if until and not since:
            since, until = until, ""
        self._act("diff", {"from": since, "to": until}, _do_nothing)

    def action_delete(self) -> None:
        if number := self._needs_snapshot():
            self._delete(number, self.action_reload)

    def _needs_snapshot(self) -> str:
        number = self._chosen_number()
        if not number:
            self.notify("choose a snapshot first", severity="warning", markup=False)
        return number


def _do_nothing() -> None:
    """Do nothing: a comparison changes no snapshot."""
