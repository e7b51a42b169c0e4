"""Print what others share with the user: sessions, snapshots and services, each in a table of its own."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from broker.cli import output
from broker.cli.redraw import RedrawnLines
from broker.errors import ControllerUnavailableError
from broker.format import format_time
from broker.text.session import SHRINKING_COLUMN
from broker.text.sharing import NOTHING_SHARED, shared_tables

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from broker.schema.grants import SharedList

POLL_S = 3.0
"""Seconds between two looks at what others share: the stream of changes has the user's own sessions only."""


def print_shared_names(shared: SharedList) -> None:
    """Print each session once, as `OWNER.NAME`."""
    sessions = [each.session.name for each in shared.sessions]
    snapshots = [each.session for each in shared.snapshots]
    services = [each.session for each in shared.services]
    for name in dict.fromkeys((*sessions, *snapshots, *services)):
        output.print_line(name)


def print_shared(shared: SharedList, *, wide: bool) -> None:
    """Print a table of each kind that is shared, or a note that nothing is."""
    tables = shared_tables(shared, time.time(), wide=wide)
    for table in tables:
        shrink = SHRINKING_COLUMN if table.is_sessions and not wide else None
        output.print_table(table.headings, table.rows, shrink=shrink)
        if table.advice:
            output.print_note(table.advice)
    if not tables:
        output.print_note(NOTHING_SHARED)


def watch_shared(invocation: Invocation, *, wide: bool) -> None:
    """Show what others share until Ctrl-C: in place on a terminal, elsewhere again after each change.

    While the controller does not answer, the terminal says since when. Other errors end it.
    """
    block, before = RedrawnLines(), ""
    in_place = not invocation.json and output.is_terminal(sys.stdout)
    shared: SharedList | None = None
    lost_at: float | None = None
    while True:
        try:
            shared, lost_at = invocation.client.shared_list(), None
        except ControllerUnavailableError:
            if shared is None:
                raise
            lost_at = lost_at or time.time()
        content = shared.model_dump(mode="json")
        if in_place:
            lost = [] if lost_at is None else [f"as of {format_time(lost_at)}: the controller does not answer"]
            block.draw([*_lines(shared, wide=wide), *lost])
        elif (now := json.dumps(content, sort_keys=True)) != before:
            before = now
            if invocation.json:
                output.print_json_line(content)
            else:
                for line in _lines(shared, wide=wide):
                    output.print_line(line)
        time.sleep(POLL_S)


def _lines(shared: SharedList, *, wide: bool) -> list[str]:
    lines: list[str] = []
    for table in shared_tables(shared, time.time(), wide=wide):
        shrink = SHRINKING_COLUMN if table.is_sessions and not wide else None
        lines += output.table_lines(table.headings, table.rows, shrink=shrink)
    return lines or [NOTHING_SHARED]
