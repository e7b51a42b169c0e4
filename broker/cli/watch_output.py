"""Show sessions as they change: in place on a terminal, as lines elsewhere, as JSON lines with `--json`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from broker.cli import output
from broker.cli.redraw import RedrawnLines
from broker.cli.watch import follow_sessions
from broker.format import format_time
from broker.text.session import state_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.cli.context import Invocation
    from broker.cli.watch import Look
    from broker.schema.sessions import SessionView


class _ChangeLines:
    """Prints one line for each change of a session's line of state, and one when the controller is away."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lines: dict[str, str] = {}
        self._is_lost = False

    def show(self, look: Look) -> None:
        self._note_connection(look)
        if self._as_json:
            return
        for view in look.changes.deleted:
            self._lines.pop(view.id, None)
            output.print_line(f"{view.name}: deleted")
        for view in [*look.changes.left, *look.changes.changed]:
            line = state_line(view)
            if self._lines.get(view.id) != line:
                self._lines[view.id] = line
                output.print_line(line)

    def _note_connection(self, look: Look) -> None:
        if (look.lost_at is not None) != self._is_lost:
            self._is_lost = look.lost_at is not None
            output.print_note(f"berth: {_LOST if self._is_lost else 'connected to the controller again'}")


_LOST = "the controller does not answer; trying again"


def show_list(
    invocation: Invocation, selects: Callable[[SessionView], bool], lines: Callable[[Sequence[SessionView]], list[str]]
) -> None:
    """Show the selected sessions until Ctrl-C. `lines` returns them as a table for the terminal."""
    printed, block = _ChangeLines(as_json=invocation.json), RedrawnLines()
    is_first = True
    for look in follow_sessions(invocation, selects):
        if not invocation.json and output.is_terminal(sys.stdout):
            block.draw([*lines(look.views), *_status(look)])
            continue
        printed.show(look)
        records = [view.model_dump(mode="json") for view in look.changes.changed]
        removed = [view.id for view in [*look.changes.left, *look.changes.deleted]]
        if invocation.json and (is_first or records or removed):
            output.print_json_line({"changed": records, "removed": removed})
        is_first = False


def show_one(invocation: Invocation, session_id: str, page: Callable[[SessionView], list[str]]) -> None:
    """Show one session until Ctrl-C or until it is deleted. `page` returns its lines for the terminal."""
    printed, block = _ChangeLines(as_json=invocation.json), RedrawnLines()
    latest: SessionView | None = None
    for look in follow_sessions(invocation, lambda view: view.id == session_id):
        latest = look.views[0] if look.views else latest
        is_deleted = not look.views
        if not invocation.json and output.is_terminal(sys.stdout):
            if latest is not None:
                block.draw([*page(latest), *(["deleted"] if is_deleted else []), *_status(look)])
        else:
            printed.show(look)
            for view in look.changes.changed if invocation.json else []:
                output.print_json_line(view.model_dump(mode="json"))
        if is_deleted and look.lost_at is None:
            return


def _status(look: Look) -> list[str]:
    """Return the line below the sessions; none while the stream is connected and Slurm answers."""
    if look.lost_at is not None:
        return [f"as of {format_time(look.lost_at)}: {_LOST}"]
    stale = [view.stale_since for view in look.views if view.stale_since is not None]
    return [f"as of {format_time(stale[0])}; Slurm does not answer"] if stale else []
