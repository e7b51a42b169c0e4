"""The feed over the controller's stream of changes, `GET /v1/sessions/watch`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.schema.watch import SessionsSnapshot
from tui.core.feed import FeedChange, FeedSnapshot
from tui.core.site_facts import SiteFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.client.client import Client
    from broker.client.watch import SessionWatch
    from tui.core.feed import FeedEvent


class WatchFeed:
    """One connection; the worker makes another one when it is lost."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._watch: SessionWatch | None = None
        self._closed = False

    def connect(self) -> None:
        """Send the request. Raises a BerthError."""
        self._watch = self._client.watch()
        if self._closed:
            self._watch.close()

    def events(self) -> Iterator[FeedEvent]:
        if self._watch is None:
            self.connect()
        assert self._watch is not None
        for event in self._watch:
            if isinstance(event, SessionsSnapshot):
                yield FeedSnapshot(event.sessions)
            else:
                yield FeedChange(event.changed, event.removed)

    def site(self) -> SiteFacts:
        site = self._client.read_site()
        return SiteFacts(site.domain, tuple(site.profile_stores))

    def close(self) -> None:
        self._closed = True
        if self._watch is not None:
            self._watch.close()


class FeedOpener:
    """Opens feeds. The first one is opened in a thread at once, while the program still loads its modules."""

    def __init__(self, open_client: Callable[[], Client]) -> None:
        self._open_client = open_client
        self._first: WatchFeed | None = None
        self._error: BerthError | None = None
        self._thread: threading.Thread | None = threading.Thread(target=self._connect, daemon=True)
        self._thread.start()

    def open(self) -> WatchFeed:
        """Return a feed. Raises a BerthError."""
        thread, self._thread = self._thread, None
        if thread is None:
            return WatchFeed(self._open_client())
        thread.join()
        if self._error is not None:
            raise self._error
        assert self._first is not None
        return self._first

    def _connect(self) -> None:
        try:
            self._first = WatchFeed(self._open_client())
            self._first.connect()
        except BerthError as error:
            self._error = error
        except (OSError, ValueError) as error:  # a file of the configuration is away
            self._error = BerthError(str(error))
