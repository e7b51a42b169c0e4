"""The stream of a user's sessions, as the interface reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from broker.schema.sessions import SessionView
    from tui.core.site_facts import SiteFacts


@dataclass(frozen=True, slots=True)
class FeedSnapshot:
    """All sessions of the user; replaces everything that was known."""

    sessions: Collection[SessionView]


@dataclass(frozen=True, slots=True)
class FeedChange:
    """Sessions that are new or have changed, and the ids of sessions that no longer exist."""

    changed: Collection[SessionView] = ()
    removed: Collection[str] = ()


FeedEvent = FeedSnapshot | FeedChange


class SessionFeed(Protocol):
    """A connection to the controller that reports changes of sessions."""

    def events(self) -> Iterator[FeedEvent]:
        """Yield a snapshot first, then what changes. Raise a BerthError if the connection is lost or silent."""

    def site(self) -> SiteFacts:
        """Return the facts about the site that the controller has. Raises a BerthError."""

    def close(self) -> None:
        """End a call of `events` in another thread."""
