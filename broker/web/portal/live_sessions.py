"""The changes of sessions for all open pages, over one stream from the controller.

Each browser's part of the stream is opened with its delegation. The stream is open while there are pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, NoReturn, Self

from broker.errors import BerthError, LoggedOutError, NotFoundError
from broker.names import new_id
from broker.schema.web import WATCH_ENDED_EVENT, BrowserWatchRequest, WatchStreamRequest
from broker.web.event_stream import parse_events
from broker.web.portal.browser_feed import BrowserFeed
from broker.web.repetition import repeat

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from types import TracebackType

    from broker.schema.web import EndedVisits
    from broker.web.controller_client import WebControllerClient

RETRY_S = 2.0
"""Time after which a stream or a watch that has failed is opened again."""
LINGER_S = 20.0
"""Time for which a browser without pages is still watched: it may be on its way to the next page."""

log = logging.getLogger(__name__)


class LiveSessions:
    """An async context manager, within which pages get changes."""

    def __init__(self, controller: WebControllerClient) -> None:
        self._controller = controller
        self._feeds: dict[str, BrowserFeed] = {}
        """By the delegation's secret."""
        self._watched: dict[str, BrowserFeed] = {}
        """By the watch's id, for the present stream."""
        self._stream_id = ""
        """Empty while there is no stream."""
        self._is_needed = asyncio.Event()
        self._stream: asyncio.Task[NoReturn] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._stream = asyncio.create_task(repeat("stream of changes", self._follow, 0, RETRY_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stream is not None
        tasks = [self._stream, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def pages(self) -> int:
        """The number of open pages."""
        return sum(feed.pages for feed in self._feeds.values())

    @contextlib.contextmanager
    def page(self, delegation: str) -> Iterator[BrowserFeed]:
        """Yield the feed of the browser with this delegation, as long as one of its pages is open."""
        feed = self._feeds.get(delegation)
        if feed is None:
            feed = self._feeds[delegation] = BrowserFeed(delegation)
            self._is_needed.set()
            if self._stream_id:
                self._run(self._watch(feed, self._stream_id))
        feed.pages += 1
        try:
            yield feed
        finally:
            feed.pages -= 1
            if not feed.pages:
                asyncio.get_running_loop().call_later(LINGER_S, self._drop_unused, feed)

    def end(self, ended: EndedVisits) -> None:
        """End the pages of these delegations. On return, they get no change any more."""
        for feed in [each for each in self._feeds.values() if each.delegation_id in set(ended.delegation_ids)]:
            self._end(feed)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self) -> None:
        """Read one stream until no page needs it. ControllerUnavailableError when it ends otherwise."""
        await self._is_needed.wait()
        request = WatchStreamRequest(id=new_id())
        try:
            async with self._controller.stream(request) as chunks:
                self._stream_id = request.id
                for feed in self._feeds.values():
                    self._run(self._watch(feed, request.id))
                async for kind, data in parse_events(chunks):
                    self._read(kind, data)
                    if not self._feeds:
                        self._is_needed.clear()
                        return
        finally:
            self._stream_id = ""
            self._watched.clear()

    def _read(self, kind: str, data: str) -> None:
        if not data:
            return
        try:
            record = json.loads(data)
            feed = self._watched.get(record["watch"])
            if feed is None:
                return
            if kind != WATCH_ENDED_EVENT:
                feed.apply(kind, data)
            elif record["logged_out"]:
                self._end(feed)
            else:
                self._run(self._watch_again(feed, self._stream_id))
        except (ValueError, LookupError, TypeError) as error:  # of another version's controller
            log.warning("event of the controller ignored kind=%s error=%r", ascii(kind[:40]), error)

    async def _watch(self, feed: BrowserFeed, stream_id: str) -> None:
        """Open the browser's watch in a stream, as often as it takes while both are wanted."""
        while self._stream_id == stream_id and self._feeds.get(feed.delegation) is feed:
            self._watched.pop(feed.watch_id, None)
            feed.watch_id = new_id()
            self._watched[feed.watch_id] = feed  # before the answer, since events may overtake it
            try:
                answer = await self._controller.watch(
                    feed.delegation, BrowserWatchRequest(stream=stream_id, id=feed.watch_id)
                )
            except LoggedOutError:
                self._end(feed)
            except NotFoundError:  # the stream has ended, and the next one begins with all watches
                return
            except BerthError as error:
                log.info("browser not watched error=%s", error.message)
                await asyncio.sleep(RETRY_S)
            else:
                feed.delegation_id, feed.expires_at = answer.delegation_id, answer.expires_at
                return

    async def _watch_again(self, feed: BrowserFeed, stream_id: str) -> None:
        await asyncio.sleep(RETRY_S)
        await self._watch(feed, stream_id)

    def _end(self, feed: BrowserFeed) -> None:
        feed.end()
        self._forget(feed)

    def _forget(self, feed: BrowserFeed) -> None:
        self._watched.pop(feed.watch_id, None)
        if self._feeds.get(feed.delegation) is feed:
            del self._feeds[feed.delegation]

    def _drop_unused(self, feed: BrowserFeed) -> None:
        if not feed.pages and self._feeds.get(feed.delegation) is feed:
            self._forget(feed)
            self._run(self._end_watch(feed))

    async def _end_watch(self, feed: BrowserFeed) -> None:
        with contextlib.suppress(BerthError):  # it ends with the stream
            await self._controller.end_watch(feed.watch_id)
