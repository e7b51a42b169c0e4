"""The state of the connection to the controller, and the pauses between attempts to reconnect."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from broker.format import format_time

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
"""A restarted controller is noticed within this time; 50 interfaces then cause four attempts a second."""


class Link(Enum):
    CONNECTING = auto()  # nothing was received yet
    LIVE = auto()
    LOST = auto()


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """The state of the connection: since when it is lost, and why."""

    link: Link = Link.CONNECTING
    as_of: float | None = None
    """Time at which the connection was lost; None if there was none before."""
    cause: str = ""
    """The error of the last attempt, without control characters."""

    def describe(self, now: float) -> str:
        """Return a short note such as `as of 12:03, trying again`; empty while the connection is live."""
        if self.link is Link.LIVE:
            return ""
        if self.link is Link.CONNECTING:
            return "connecting to the controller"
        if self.as_of is None:
            return "the controller does not answer, trying again"
        return f"as of {format_time(self.as_of, now)}, trying again"

    def refusal(self, now: float) -> str | None:
        """Return why an action cannot be carried out now; None while the connection is live."""
        if self.link is Link.LIVE:
            return None
        if self.link is Link.CONNECTING:
            return "not connected to the controller yet; nothing was sent"
        return f"the controller does not answer ({self.describe(now)}); nothing was sent"


class ReconnectBackoff:
    """Pauses between attempts: they double up to LONGEST_RETRY_S, and never end."""

    def __init__(self) -> None:
        self._next = FIRST_RETRY_S

    def next_pause(self) -> float:
        """Return the seconds until the next attempt."""
        pause, self._next = self._next, min(self._next * 2, LONGEST_RETRY_S)
        return pause

    def reset(self) -> None:
        self._next = FIRST_RETRY_S
