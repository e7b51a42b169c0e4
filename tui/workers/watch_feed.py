"""The feed over the controller's stream of changes, `GET /v1/sessions/watch`."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.schema.watch import SessionsSnapshot
from tui.core.feed import FeedChange, FeedSnapshot
from tui.core.site_facts import SiteFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.client.client import Client
    from broker.client.watch import SessionWatch
    from broker.schema.watch import SessionsEvent
    from tui.core.feed import FeedEvent


class WatchFeed:
    """One connection; the worker makes another one when it is lost."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._watch: SessionWatch | None = None
        self._ahead: Future[SessionsEvent | None] | None = None
        """The first event, or the failure to read it, if another thread reads it; None: the stream has ended."""
        self._closed = False

    def connect(self) -> None:
        """Send the request. Raises a BerthError."""
        self._watch = self._client.watch()
        if self._closed:
            self._watch.close()

    def expect_first(self) -> None:
        """Let `events` wait for `read_first` in another thread."""
        self._ahead = Future()

    def read_first(self) -> None:
        """Read the first event for `events`, which also raises what fails here."""
        assert self._watch is not None
        assert self._ahead is not None
        ahead = self._ahead
        try:
            ahead.set_result(next(self._watch, None))
        except Exception as error:  # noqa: BLE001 - `events` raises it
            ahead.set_exception(error)

    def events(self) -> Iterator[FeedEvent]:
        if self._watch is None:
            self.connect()
        assert self._watch is not None
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            event = ahead.result()
            if event is None:
                return
            yield _feed_event(event)
        for event in self._watch:
            yield _feed_event(event)

    def site(self) -> SiteFacts:
        site = self._client.read_site()
        return SiteFacts(site.domain, tuple(site.profile_stores))

    def close(self) -> None:
        self._closed = True
        if self._watch is not None:
            self._watch.close()


def _feed_event(event: SessionsEvent) -> FeedEvent:
    if isinstance(event, SessionsSnapshot):
        return FeedSnapshot(event.sessions)
    return FeedChange(event.changed, event.removed)


class FeedOpener:
    """Opens feeds. A thread opens the first one at once and reads its snapshot, while the program loads its modules."""

    def __init__(self, open_client: Callable[[], Client]) -> None:
        self._open_client = open_client
        self._first: WatchFeed | None = None
        self._error: BerthError | None = None
        self._opened: threading.Event | None = threading.Event()
        threading.Thread(target=self._connect, args=(self._opened,), daemon=True).start()

    def open(self) -> WatchFeed:
        """Return a feed. Raises a BerthError."""
        opened, self._opened = self._opened, None
        if opened is None:
            return WatchFeed(self._open_client())
        opened.wait()
        if self._error is not None:
            raise self._error
        assert self._first is not None
        return self._first

    def _connect(self, opened: threading.Event) -> None:
        try:
            feed = WatchFeed(self._open_client())
            feed.connect()
            feed.expect_first()
            self._first = feed
        except BerthError as error:
            self._error = error
        except (OSError, ValueError) as error:  # a file of the configuration is away
            self._error = BerthError(str(error))
        opened.set()
        if self._first is not None:
            self._first.read_first()
