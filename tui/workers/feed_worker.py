"""The thread that follows the user's sessions, and reconnects for ever."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.format import escape_controls
from tui.core.connection_state import ConnectionState, Link, ReconnectBackoff
from tui.core.feed import FeedChange, FeedSnapshot
from tui.messages import ConnectionChanged, NewsArrived, SiteLearned

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.message import Message

    from broker.schema.sessions import SessionView
    from tui.core.feed import FeedEvent, SessionFeed


class FeedWorker:
    """Reads a feed in a thread, and posts messages. News that wait are merged, so that they never queue."""

    def __init__(
        self,
        open_feed: Callable[[], SessionFeed],
        post: Callable[[Message], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._open_feed = open_feed
        self._post = post
        self._lock = threading.Lock()
        self._snapshot: FeedSnapshot | None = None
        self._changed: dict[str, SessionView] = {}
        self._removed: set[str] = set()
        self._announced = False
        self._state = ConnectionState()
        self._wake = threading.Event()
        self._stopped = False
        self._feed: SessionFeed | None = None
        self._backoff = ReconnectBackoff()
        self._has_site = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="session-feed", daemon=True).start()

    def stop(self) -> None:
        """End the thread at its next event. The caller does not wait: a daemon thread cannot keep the process alive."""
        self._stopped = True
        self.reconnect()

    def reconnect(self) -> None:
        """End the present connection or the pause before the next attempt."""
        self._wake.set()
        feed = self._feed
        if feed is not None:
            feed.close()

    def take(self) -> tuple[FeedSnapshot | None, FeedChange]:
        """Return what has arrived since the last call: a snapshot, if there was one, and the changes after it."""
        with self._lock:
            snapshot, self._snapshot = self._snapshot, None
            change = FeedChange(tuple(self._changed.values()), tuple(self._removed))
            self._changed, self._removed, self._announced = {}, set(), False
        return snapshot, change

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            try:
                self._follow()
            except BerthError as error:
                self._lose(error.message)
            except (OSError, ValueError) as error:  # `close` ended a read, or a file of the configuration is away
                self._lose(str(error))
            self._feed = None
            if not self._stopped:
                self._wake.wait(self._backoff.next_pause())

    def _follow(self) -> None:
        """Read one connection until it ends. Raises BerthError."""
        feed = self._feed = self._open_feed()
        try:
            for event in feed.events():
                self._receive(event)
                self._backoff.reset()
                self._set_state(ConnectionState(Link.LIVE))
                if not self._has_site:
                    self._post(SiteLearned(feed.site()))
                    self._has_site = True
                if self._stopped:
                    return
        finally:
            feed.close()
        raise BerthError("the controller closed the connection")

    def _receive(self, event: FeedEvent) -> None:
        with self._lock:
            if isinstance(event, FeedSnapshot):
                self._snapshot, self._changed, self._removed = event, {}, set()
            else:
                changed = {view.id: view for view in event.changed}
                self._changed |= changed
                self._removed = (self._removed - changed.keys()) | set(event.removed)
                for identifier in event.removed:
                    self._changed.pop(identifier, None)
            announce, self._announced = not self._announced, True
        if announce:
            self._post(NewsArrived())

    def _lose(self, cause: str) -> None:
        """Note that the connection is lost, and since when. A silent controller is noticed after three heartbeats."""
        as_of = self._clock() if self._state.link is Link.LIVE else self._state.as_of
        self._set_state(ConnectionState(Link.LOST, as_of, escape_controls(cause)))

    def _set_state(self, state: ConnectionState) -> None:
        if state != self._state:
            self._state = state
            self._post(ConnectionChanged(state))
