"""Guests of a session in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_time

if TYPE_CHECKING:
    from broker.schema.connections import ConnectionList


def describe_guests(presence: ConnectionList, now: float) -> list[str]:
    """Return a line for each guest's service, such as `bob has board open in a browser, since 10:40`."""
    began: dict[tuple[str, str], float] = {}
    for each in presence.guests:
        began.setdefault((each.user, each.service), each.began_at)
    return [
        f"{user} has {service} open in a browser, since {format_time(at, now)}" for (user, service), at in began.items()
    ]
