"""Lines about the list and about one session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.format import escape_controls
from broker.text.session import state_line
from tui.core.cells import state_of

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView
    from tui.core.session_list import ListState


def title_line(sessions: ListState) -> str:
    """Return the first line: the number of sessions, the filter, marks and order, and how many are in each state."""
    total = len(sessions.views)
    parts = [f"berth  {total} {'session' if total == 1 else 'sessions'}"]
    if sessions.filter:
        parts.append(f"filter {sessions.filter!r} shows {sessions.shown_count}")
    if sessions.marks:
        parts.append(f"{len(sessions.marks)} marked")
    if sessions.sort != "name" or sessions.reverse:
        parts.append(f"by {sessions.sort}{', reversed' if sessions.reverse else ''}")
    if sessions.views:
        parts.append(", ".join(f"{count} {state}" for state, count in sessions.counts().items()))
    return escape_controls(" | ".join(parts))


def chosen_line(sessions: ListState, now: float) -> str:
    """Return the line that says which session is chosen, and its state in words."""
    view = sessions.chosen_view
    if view is not None:
        return describe_session(view, now)
    if sessions.filter:
        return "no session contains this text; Esc removes the filter"
    return "no sessions yet; n starts one"


def describe_session(view: SessionView, now: float) -> str:
    """Return a line such as `dev: ready on c1`, without control characters."""
    try:
        return escape_controls(state_line(view, now))
    except BerthError:
        return escape_controls(f"{view.name}: {state_of(view)}")
