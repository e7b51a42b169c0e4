"""The list of sessions: filter, order, groups, marks and the chosen session, kept up to date change by change."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.format import escape_controls
from tui.core.cells import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.schema.sessions import SessionView

_Key = tuple[str, float, str, str]
"""Group, number, text and id: sorts the list, and finds a session in it."""

LAST = float("inf")
"""Number of a session without the value that the list is sorted by."""

STATE_ORDER = ("failed", "ready", "starting", "queued", "submitting", "changing", "stopping", "stopped", "deleting")


def _state_number(view: SessionView) -> tuple[float, str]:
    state = state_of(view)
    return (STATE_ORDER.index(state) if state in STATE_ORDER else len(STATE_ORDER), state)


def _number(value: float | None) -> tuple[float, str]:
    return (LAST if value is None else value, "")


SORT_KEYS: dict[str, Callable[[SessionView], tuple[float, str]]] = {
    "name": lambda view: (0, view.name),
    "state": _state_number,
    "node": lambda view: (0, view.endpoint.node) if view.endpoint else (LAST, ""),
    "left": lambda view: _number(view.ends_at if view.endpoint else None),
    "queue": lambda view: _number(view.ahead if state_of(view) == "queued" else None),
    "profile": lambda view: (0, f"{view.profile}@{view.version}"),
    "idle": lambda view: _number(view.idle_since),
    "created": lambda view: _number(-view.created_at),
}
"""Number and text by which each order sorts; sessions without the value come last."""

GROUPS: dict[str, Callable[[SessionView], str]] = {
    "": lambda _: "",
    "state": state_of,
    "profile": lambda view: view.profile,
    "node": lambda view: view.endpoint.node if view.endpoint else "no node",
}
"""Names of groupings; the empty name is a list without groups."""


@dataclass(frozen=True, slots=True)
class GroupHeading:
    """A line above the sessions of a group."""

    title: str
    count: int


Line = GroupHeading | str
"""A heading, or a session's id."""


@dataclass(frozen=True, slots=True)
class ListChange:
    """Effect of a change: the lines to draw again, or `moved` if lines have moved."""

    lines: tuple[int, ...] = ()
    moved: bool = False


class ListState:
    """All sessions of the user, and the lines that are shown."""

    def __init__(self, sort: str = "name", group: str = "", *, reverse: bool = False) -> None:
        self.views: dict[str, SessionView] = {}
        self.sort = sort if sort in SORT_KEYS else "name"
        self.group = group if group in GROUPS else ""
        self.reverse = reverse
        self.filter = ""
        self.marks: set[str] = set()
        self.chosen: str | None = None
        self._terms: tuple[str, ...] = ()
        self._keys: dict[str, _Key] = {}
        self._order: list[_Key] = []
        self._counts: dict[str, int] | None = None
        self._texts: dict[str, str] = {}
        """Searched texts of sessions, as far as a filter has needed them."""
        self._headings: list[tuple[int, GroupHeading]] = []
        """Line and heading of each group, in the order of the lines."""

    def replace(self, views: Iterable[SessionView]) -> ListChange:
        """Take a snapshot: forget all other sessions."""
        self.views = {view.id: view for view in views}
        self._counts = None
        self._texts = {}
        self.marks &= self.views.keys()
        return self._rebuild()

    def apply(self, changed: Iterable[SessionView], removed: Iterable[str] = ()) -> ListChange:
        """Take over changes. An outdated view, with a lower revision than the known one, is ignored."""
        lines: list[int] = []
        moved, chosen_line = False, self.chosen_line
        self._counts = None
        for identifier in removed:
            if self.views.pop(identifier, None) is not None:
                self.marks.discard(identifier)
                self._texts.pop(identifier, None)
                moved |= self._place(identifier, None)
        for view in changed:
            known = self.views.get(view.id)
            if known is not None and known.revision > view.revision:
                continue
            self.views[view.id] = view
            self._texts.pop(view.id, None)
            key = self._key(view) if self._matches(view) else None
            if key == self._keys.get(view.id):
                lines += [] if key is None else [self.line_of(view.id) or 0]
            else:
                moved |= self._place(view.id, key)
        if moved:
            self._update_headings()
            self._keep_chosen(chosen_line)
        return ListChange(tuple(lines), moved)

    def set_filter(self, text: str) -> ListChange:
        """Show only sessions that contain every word of the text, in any field, in any case."""
        self.filter = text
        self._terms = tuple(text.casefold().split())
        return self._rebuild()

    def sort_by(self, sort: str, *, reverse: bool = False) -> ListChange:
        self.sort, self.reverse = sort, reverse
        return self._rebuild()

    def group_by(self, group: str) -> ListChange:
        self.group = group
        return self._rebuild()

    @property
    def line_count(self) -> int:
        return len(self._order) + len(self._headings)

    @property
    def shown_count(self) -> int:
        """Number of sessions that the filter accepts."""
        return len(self._order)

    def line(self, index: int) -> Line:
        """Return the heading or the session's id of a line."""
        position = bisect_right(self._headings, index, key=lambda heading: heading[0]) - 1
        if position >= 0 and self._headings[position][0] == index:
            return self._headings[position][1]
        at = index - (position + 1)
        return self._order[len(self._order) - 1 - at if self.reverse else at][3]

    def line_of(self, identifier: str) -> int | None:
        """Return the session's line; None if it is not shown."""
        key = self._keys.get(identifier)
        if key is None:
            return None
        at = bisect_left(self._order, key)
        at = len(self._order) - 1 - at if self.reverse else at
        starts = [line - number for number, (line, _) in enumerate(self._headings)]
        return at + bisect_right(starts, at)

    @property
    def chosen_view(self) -> SessionView | None:
        return None if self.chosen is None else self.views.get(self.chosen)

    @property
    def chosen_line(self) -> int:
        """The line of the chosen session; 0 if none is chosen."""
        return (None if self.chosen is None else self.line_of(self.chosen)) or 0

    def choose(self, line: int) -> None:
        """Choose the session of a line, or the next one below a heading; lines outside the list are brought inside."""
        if not self._order:
            self.chosen = None
            return
        step = 1 if line >= self.chosen_line else -1
        line = min(max(line, 0), self.line_count - 1)
        found = self.line(line)
        if isinstance(found, GroupHeading):
            above = line == 0 or step > 0
            found = self.line(line + 1 if above else line - 1)
        assert isinstance(found, str)
        self.chosen = found

    def toggle_mark(self, identifier: str) -> None:
        self.marks ^= {identifier}

    def mark_shown(self) -> None:
        """Mark all sessions that are shown; if all are marked, remove their marks."""
        shown = {key[3] for key in self._order}
        self.marks = self.marks - shown if shown <= self.marks else self.marks | shown

    def targets(self) -> list[SessionView]:
        """Return the sessions that an action is for: the marked ones in the order of the list, or else the chosen one.

        A marked session that the filter hides is not one of them: an action concerns only what the user sees.
        """
        shown = [self.views[key[3]] for key in self._order if key[3] in self.marks]
        if shown:
            return shown[::-1] if self.reverse else shown
        return [] if self.chosen_view is None else [self.chosen_view]

    def counts(self) -> dict[str, int]:
        """Return the number of all sessions in each state, in the order of STATE_ORDER."""
        if self._counts is None:
            counts = Counter(map(state_of, self.views.values()))
            order = sorted(
                counts, key=lambda state: (STATE_ORDER.index(state) if state in STATE_ORDER else LAST, state)
            )
            self._counts = {state: counts[state] for state in order}
        return self._counts

    def _key(self, view: SessionView) -> _Key:
        number, text = SORT_KEYS[self.sort](view)
        return (GROUPS[self.group](view), number, text or view.name, view.id)

    def _matches(self, view: SessionView) -> bool:
        if not self._terms:
            return True
        text = self._texts.get(view.id)
        if text is None:
            text = self._texts[view.id] = _searched_text(view)
        return all(term in text for term in self._terms)

    def _place(self, identifier: str, key: _Key | None) -> bool:
        """Move a session to its place, or remove it; return whether a line moves."""
        former = self._keys.pop(identifier, None)
        if former is not None:
            del self._order[bisect_left(self._order, former)]
        if key is not None:
            self._keys[identifier] = key
            insort(self._order, key)
        return former != key

    def _rebuild(self) -> ListChange:
        chosen_line = self.chosen_line
        self._keys = {view.id: self._key(view) for view in self.views.values() if self._matches(view)}
        self._order = sorted(self._keys.values())
        self._update_headings()
        self._keep_chosen(chosen_line)
        return ListChange(moved=True)

    def _update_headings(self) -> None:
        self._headings = []
        if not self.group:
            return
        counts: dict[str, int] = {}
        for key in reversed(self._order) if self.reverse else self._order:
            counts[key[0]] = counts.get(key[0], 0) + 1
        line = 0
        for title, count in counts.items():
            self._headings.append((line, GroupHeading(escape_controls(title), count)))
            line += count + 1

    def _keep_chosen(self, former_line: int) -> None:
        """Keep the chosen session; if it is no longer shown, choose the one that is now on its line."""
        if self.chosen is None or self.chosen not in self._keys:
            self.chosen = None
            self.choose(former_line)


def _searched_text(view: SessionView) -> str:
    node = view.endpoint.node if view.endpoint else ""
    job = "" if view.job_id is None else str(view.job_id)
    parts = (view.name, state_of(view), view.profile, view.version, node, view.reason, job, *view.options)
    return "\n".join(parts).casefold()
