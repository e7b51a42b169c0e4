"""Sentences about sharing: what is shared of a session, and who uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_time

if TYPE_CHECKING:
    from broker.schema.connections import ConnectionList


def describe_shared(name: str, snapshot: int | None, service: str | None) -> str:
    """Return a name of what is shared: the session `name`, or a snapshot or service of it."""
    if snapshot is not None:
        return f"snapshot {snapshot} of {name}"
    return name if service is None else f"{service} of {name}"


def describe_guests(presence: ConnectionList, now: float) -> list[str]:
    """Return a line for each guest's service, such as `bob has board open in a browser, since 10:40`."""
    began: dict[tuple[str, str], float] = {}
    for each in presence.guests:
        began.setdefault((each.user, each.service), each.began_at)
    return [
        f"{user} has {service} open in a browser, since {format_time(at, now)}" for (user, service), at in began.items()
    ]
