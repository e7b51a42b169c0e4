"""Texts that a screen shows: of a session its explanation, history, events, connections and links; the cluster."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from broker.errors import NotFoundError
from broker.format import escape_controls, format_duration, format_size, format_time
from broker.text.ide_links import LINKS
from broker.text.sharing import (
    GRANT_HEADINGS,
    NOTHING_SHARED,
    describe_guests,
    describe_visits,
    grant_row,
    shared_tables,
)
from broker.text.timeline import timeline, timeline_scale
from tui.core.cluster_map import cluster_lines
from tui.core.queue_waits import find_waits, recently_submitted, wait_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from broker.client.client import Client
    from broker.schema.connections import ConnectionList
    from broker.schema.grants import GrantView, SharedList
    from broker.schema.sessions import JobView, SessionView
    from broker.schema.site import EventView
    from tui.core.queue_waits import QueueWait

LOG_TAIL_BYTES = 64 * 1024
"""The end of the log in which an explanation looks for errors."""

_TITLE_CELLS = 10
_MIN_TIMELINE_CELLS = 20

Lines = list[str]


def explanation(view: SessionView, jobs: list[JobView], log: str, now: float) -> Lines:
    """Return what `berth explain` prints."""
    from broker.text.advice import explain_session  # noqa: PLC0415 - it takes long to import

    return [f"{title:<{_TITLE_CELLS}} {text}" for title, text in explain_session(view, jobs, log, now)]


def history(jobs: Sequence[JobView], now: float, cells: int) -> Lines:
    """Return the jobs on a timeline, the latest first: a bar to scale, and below it the same in words."""
    lines = [timeline_scale(jobs, now), "░ waiting  █ running", ""]
    for row in timeline(jobs, now, max(cells - 2, _MIN_TIMELINE_CELLS)):
        where = f" on {row.node}" if row.node else ""
        job = f"job {row.job}" if row.job else "no job"
        lines += [f"|{row.bar}|", f"{job}{where}: {row.text}", ""]
    return lines


def events_text(events: Sequence[EventView], now: float) -> Lines:
    """Return the events, the latest first."""
    rows = [(format_time(event.at, now), event.actor, event.action, event.detail) for event in reversed(events)]
    return _table(("WHEN", "WHO", "WHAT", "DETAIL"), rows) if rows else ["no events yet"]


def connections_text(presence: ConnectionList, now: float) -> Lines:
    """Return the open connections, and the number of open terminals."""
    count = presence.terminals
    lines = [] if count is None else [f"{count} open terminal{'' if count == 1 else 's'}", ""]
    if presence.guests:
        lines += [*describe_visits(presence, now), ""]
    if not presence.connections:
        return [*lines, "Berth knows of no open connections."]
    rows = [
        (
            each.user,
            each.role or "-",
            each.peer or "-",
            each.gateway or "-",
            format_duration(now - each.began_at),
            format_size(each.sent),
            format_size(each.received),
        )
        for each in presence.connections
    ]
    return lines + _table(("WHO", "ROLE", "FROM", "THROUGH", "SINCE", "SENT", "RECEIVED"), rows)


def grants_text(grants: Sequence[GrantView], presence: ConnectionList, now: float) -> Lines:
    """Return with whom a session is shared, and the guests who are in now."""
    if not grants:
        lines = ["This session is not shared."]
    else:
        lines = _table(GRANT_HEADINGS, [grant_row(grant, now) for grant in grants])
    return [*lines, "", *(describe_guests(presence, now) or ["No guest is in now."])]


def shared_text(shared: SharedList, now: float) -> Lines:
    """Return what others share with the user."""
    lines: Lines = []
    for table in shared_tables(shared, now, wide=True):
        lines += [*_table(table.headings, table.rows), *([table.advice] if table.advice else []), ""]
    return lines or [NOTHING_SHARED]


def links_text(view: SessionView, domain: str) -> Lines:
    """Return the links that open the session in IDEs, and the command for each."""
    host, path = f"{view.name}.{domain}", f"/home/{view.owner}"
    lines = ["Open one of these links where the IDE is; that machine needs the output of `berth ssh-config`.", ""]
    for ide, link in LINKS.items():
        lines += [f"{ide}: {link(host, view.owner, path)}", f"  $ berth open {view.name} {ide}", ""]
    return lines


def ssh_line(view: SessionView, domain: str) -> str:
    """Return the ssh command for a session."""
    return f"ssh {view.name}.{domain}"


TEXT_VIEWS: dict[str, Callable[[Client, str, float, int], Lines]] = {
    "explain": lambda client, name, now, _cells: explanation(
        client.session(name), client.jobs(name), client.log(name, tail=LOG_TAIL_BYTES), now
    ),
    "history": lambda client, name, now, cells: history(client.jobs(name), now, cells),
    "events": lambda client, name, now, _cells: events_text(client.events(name), now),
    "who": lambda client, name, now, _cells: connections_text(client.presence(name), now),
    "shares": lambda client, name, now, _cells: grants_text(client.grants(name), client.presence(name), now),
    "open": lambda client, name, _now, _cells: links_text(client.read_session(name), client.read_site().domain),
}
"""Action → the function that reads its text, with the present time and the width in cells."""


def cluster_text(client: Client, views: Sequence[SessionView], now: float, cells: int) -> Lines:
    """Read the cluster, and the jobs of the sessions among `views` that had one during the last day."""
    nodes: dict[str, list[str]] = {}
    for view in views:
        if view.endpoint:
            nodes.setdefault(view.endpoint.node, []).append(view.name)
    lines = cluster_lines(client.cluster(), nodes, now, cells)
    waits: list[QueueWait] = []
    for name in recently_submitted(views, now):
        with contextlib.suppress(NotFoundError):  # it was deleted meanwhile
            waits += find_waits(name, client.jobs(name), now)
    return [*lines, "", *wait_lines(waits, now, cells)]


def safe_lines(lines: Iterable[str]) -> str:
    """Return the lines as one text in which no character of the data controls the terminal."""
    return "\n".join(escape_controls(line) for line in lines)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Lines:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    ]
