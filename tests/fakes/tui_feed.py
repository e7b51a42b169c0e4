"""Feeds of sessions for the terminal interface: one that a test drives, and one that is lost at once."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from broker.errors import ControllerUnavailableError
from broker.schema.connections import ConnectionView
from broker.schema.sessions import Endpoint, SessionState, SessionView
from tui.core.feed import FeedChange, FeedSnapshot
from tui.core.site_facts import SiteFacts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tui.core.feed import FeedEvent

NOW = 1_795_000_000.0
"""The time of the views below."""


def make_view(name: str = "dev", state: str = "ready", **values: object) -> SessionView:
    """A view of a session with a job of 8 hours, half of which are over, unless `values` say otherwise."""
    fields: dict[str, object] = {
        "id": f"id-{name}",
        "name": name,
        "owner": "alice",
        "state": SessionState(state),
        "profile": "torch",
        "version": "2.9",
        "digest": "sha256:0",
        "options": ["--gres=gpu:1"],
        "created_at": NOW - 90000,
        "revision": 1,
    }
    if state in {"ready", "starting", "queued"}:
        fields |= {"job_id": 4711, "generation": "1.0", "submitted_at": NOW - 14500}
    if state == "ready":
        fields |= {
            "endpoint": Endpoint(node="gpu01", port=20001, fingerprint="SHA256:abc"),
            "started_at": NOW - 14400,
            "ends_at": NOW + 14400,
        }
    return SessionView.model_validate(fields | values)


def make_connection() -> ConnectionView:
    """Return an open connection of 10 minutes, with different numbers of bytes for each direction."""
    return ConnectionView(
        id="01",
        session="dev",
        user="alice",
        fingerprint="SHA256:abc",
        peer="192.0.2.7:40000",
        gateway="login",
        generation="1.0",
        began_at=NOW - 600,
        seen_at=NOW,
        ended_at=None,
        sent=2**20,
        received=2**24,
        end="",
    )


class DrivenFeed:
    """A feed whose events a test puts in. Events end, as a connection does, when `lose` is called."""

    def __init__(self, sessions: Collection[SessionView] = ()) -> None:
        self._events: queue.SimpleQueue[FeedEvent | None] = queue.SimpleQueue()
        self.sessions = {view.id: view for view in sessions}
        self.connections = 0
        self.reachable = True

    def open(self) -> DrivenFeed:
        self.connections += 1
        if not self.reachable:
            raise ControllerUnavailableError("the controller does not answer at /run/berth/api.sock")
        return self

    def events(self) -> Iterator[FeedEvent]:
        yield FeedSnapshot(tuple(self.sessions.values()))
        while (event := self._events.get()) is not None:
            yield event
        raise ControllerUnavailableError("the controller does not answer at /run/berth/api.sock: it ended the stream")

    def site(self) -> SiteFacts:
        return SiteFacts(stores=("/site",))

    def close(self) -> None:
        """Do nothing: the test ends the events."""

    def change(self, *views: SessionView, removed: Collection[str] = ()) -> None:
        self.sessions |= {view.id: view for view in views}
        for identifier in removed:
            del self.sessions[identifier]
        self._events.put(FeedChange(views, removed))

    def lose(self) -> None:
        """End the connection, and refuse others until `reachable` is set."""
        self.reachable = False
        self._events.put(None)
