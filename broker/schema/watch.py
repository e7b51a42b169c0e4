"""Events of `GET /v1/sessions/watch`, which streams the caller's sessions as they change.

The module imports no validation library, so that the command line loads it quickly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView

WATCH_PATH = "/v1/sessions/watch"
EVENT_STREAM = "text/event-stream"
"""The media type of Server-Sent Events. The call requires it in `Accept`: without it, `watch` is a session's name."""
HEARTBEAT_HEADER = "Berth-Heartbeat"
"""The header of the answer with the seconds between two heartbeats."""
SNAPSHOT_EVENT, CHANGE_EVENT = "sessions", "change"
"""Names of the events in the stream."""


@dataclass(frozen=True, slots=True)
class SessionsSnapshot:
    """All of the caller's sessions. It replaces the data of all earlier events."""

    revision: str
    """The position in the stream, for `since`. Only the controller can interpret it."""
    sessions: list[SessionView] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SessionsChange:
    """The sessions that differ from those of the previous event."""

    revision: str
    changed: list[SessionView] = field(default_factory=list)
    """The present records of changed and new sessions."""
    removed: list[str] = field(default_factory=list)
    """The ids of sessions that were deleted."""


SessionsEvent = SessionsSnapshot | SessionsChange
