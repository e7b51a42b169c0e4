"""Sentences and tables about sharing: what is shared of a session, with whom, and who uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.format import format_time
from broker.text.session import session_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.connections import ConnectionList
    from broker.schema.grants import GrantView, SharedList, SharedService, SharedSession, SharedSnapshot

GRANT_HEADINGS = ("NAME", "WITH", "ROLE", "SINCE", "UNTIL")
NOTHING_SHARED = "No session of others is shared with you."
_VIA = "SHARED WITH"


class SharedTable(NamedTuple):
    """A table of what others share, and what can be done with its first line."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    advice: str = ""
    is_sessions: bool = False


def describe_shared(name: str, snapshot: int | None, service: str | None) -> str:
    """Return a name of what is shared: the session `name`, or a snapshot or service of it."""
    if snapshot is not None:
        return f"snapshot {snapshot} of {name}"
    return name if service is None else f"{service} of {name}"


def describe_guests(presence: ConnectionList, now: float) -> list[str]:
    """Return a line for each guest who is in by ssh, with the role, such as `bob (pair) is in by ssh, since 10:40`, and
    those of `describe_visits`.
    """
    began: dict[str, float] = {}
    guests = [each for each in presence.connections if each.role is not None]
    for each in sorted(guests, key=lambda each: (each.user, each.began_at)):
        began.setdefault(f"{each.user} ({each.role}) is in by ssh", each.began_at)
    return [*(f"{line}, since {format_time(at, now)}" for line, at in began.items()), *describe_visits(presence, now)]


def describe_visits(presence: ConnectionList, now: float) -> list[str]:
    """Return a line for each service that a guest has open, such as `bob (port) has board open in a browser, since
    10:40`.
    """
    began: dict[str, float] = {}
    for each in presence.guests:
        began.setdefault(f"{each.user} ({each.role}) has {each.service} open in a browser", each.began_at)
    return [f"{line}, since {format_time(at, now)}" for line, at in began.items()]


def grant_row(grant: GrantView, now: float) -> tuple[str, ...]:
    """Return a grant's row below GRANT_HEADINGS."""
    until = _end(grant.until, now)
    return (
        grant.session,
        grant.grantee,
        " ".join(str(word) for word in (grant.role, grant.snapshot, grant.service) if word is not None),
        format_time(grant.granted_at, now),
        f"{until} (expired)" if grant.until is not None and grant.until <= now else until,
    )


def shared_tables(shared: SharedList, now: float, *, wide: bool) -> list[SharedTable]:
    """Return a table of each kind that others share with the user: sessions, snapshots, services."""
    found = []
    if shared.sessions:
        found.append(_sessions(shared.sessions, now, wide=wide))
    if shared.snapshots:
        found.append(_snapshots(shared.snapshots, now))
    if shared.services:
        found.append(_services(shared.services, now))
    return found


def _sessions(sessions: Sequence[SharedSession], now: float, *, wide: bool) -> SharedTable:
    headings, rows = session_table([each.session for each in sessions], now, wide=wide)
    rows = [(*row, each.role, _end(each.until, now), each.via) for row, each in zip(rows, sessions, strict=True)]
    return SharedTable((*headings, "ROLE", "UNTIL", _VIA), rows, is_sessions=True)


def _snapshots(snapshots: Sequence[SharedSnapshot], now: float) -> SharedTable:
    rows = [(each.session, str(each.snapshot), _end(each.until, now), each.via) for each in snapshots]
    first = snapshots[0]
    advice = f"`berth clone {first.session} NEW --at {first.snapshot}` makes a session of your own"
    return SharedTable(("NAME", "SNAPSHOT", "UNTIL", _VIA), rows, advice)


def _services(services: Sequence[SharedService], now: float) -> SharedTable:
    rows = [
        (each.session, each.service, "ready" if each.is_open else "not ready", _end(each.until, now), each.via)
        for each in services
    ]
    advice = f"`berth open {services[0].session} {services[0].service}` opens it"
    return SharedTable(("NAME", "SERVICE", "STATE", "UNTIL", _VIA), rows, advice)


def _end(until: float | None, now: float) -> str:
    return "" if until is None else format_time(until, now)
