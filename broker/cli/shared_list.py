"""Print what others share with the user: sessions, snapshots and services, each in a table of its own."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.grants import SharedList, SharedService, SharedSession, SharedSnapshot

_VIA = "SHARED WITH"


def print_shared_names(shared: SharedList) -> None:
    """Print each session once, as `OWNER.NAME`."""
    sessions = [each.session.name for each in shared.sessions]
    snapshots = [each.session for each in shared.snapshots]
    services = [each.session for each in shared.services]
    for name in dict.fromkeys((*sessions, *snapshots, *services)):
        output.print_line(name)


def print_shared(shared: SharedList, *, wide: bool) -> None:
    """Print a table of each kind that is shared, or a note that nothing is."""
    if shared.sessions:
        _print_sessions(shared.sessions, wide=wide)
    if shared.snapshots:
        _print_snapshots(shared.snapshots)
    if shared.services:
        _print_services(shared.services)
    if not (shared.sessions or shared.snapshots or shared.services):
        output.print_note("No session of others is shared with you.")


def _print_sessions(sessions: Sequence[SharedSession], *, wide: bool) -> None:
    from broker.text.session import SHRINKING_COLUMN, session_table

    headings, rows = session_table([each.session for each in sessions], time.time(), wide=wide)
    rows = [(*row, each.role, _end(each.until), each.via) for row, each in zip(rows, sessions, strict=True)]
    output.print_table((*headings, "ROLE", "UNTIL", _VIA), rows, shrink=None if wide else SHRINKING_COLUMN)


def _print_snapshots(snapshots: Sequence[SharedSnapshot]) -> None:
    rows = [(each.session, str(each.snapshot), _end(each.until), each.via) for each in snapshots]
    output.print_table(("NAME", "SNAPSHOT", "UNTIL", _VIA), rows)
    first = snapshots[0]
    output.print_note(f"`berth clone {first.session} NEW --at {first.snapshot}` makes a session of your own")


def _print_services(services: Sequence[SharedService]) -> None:
    rows = [
        (each.session, each.service, "ready" if each.is_open else "not ready", _end(each.until), each.via)
        for each in services
    ]
    output.print_table(("NAME", "SERVICE", "STATE", "UNTIL", _VIA), rows)
    first = services[0]
    output.print_note(f"`berth open {first.session} {first.service}` opens it")


def _end(until: float | None) -> str:
    from broker.format import format_time

    return "" if until is None else format_time(until, time.time())
