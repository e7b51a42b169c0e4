"""The newest states for the pages of one browser: what is announced, and what a slow page gets."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from broker.schema.sessions import SessionState
from broker.web.event_stream import MAX_EVENT_BYTES, parse_events
from broker.web.portal.browser_feed import MAX_REMOVED, BrowserFeed
from tests.deadlines import DEADLINE_S
from tests.fakes.controller import view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.schema.sessions import SessionView

ENDPOINT = {"node": "c1", "port": 2222, "fingerprint": "SHA256:x"}
READY = view("dev", SessionState.READY, endpoint=ENDPOINT)


class Page:
    """A page with its position."""

    def __init__(self, feed: BrowserFeed, only: str = "") -> None:
        self._feed, self._only = feed, only
        self._position = 0

    def read(self) -> tuple[list[str], bool]:
        """The lines that it announces, and whether it loads itself again."""
        news = self._feed.news(self._position, self._only)
        self._position = news.number
        return news.lines, news.is_outdated


def feed_of(*views: SessionView) -> BrowserFeed:
    feed = BrowserFeed("secret")
    snapshot(feed, *views)
    return feed


def snapshot(feed: BrowserFeed, *views: SessionView) -> None:
    data = {"revision": "1", "sessions": [each.model_dump(mode="json") for each in views]}
    feed.apply("sessions", json.dumps(data))


def change(feed: BrowserFeed, *views: SessionView, removed: tuple[str, ...] = ()) -> None:
    changed = [each.model_dump(mode="json") for each in views]
    feed.apply("change", json.dumps({"revision": "2", "changed": changed, "removed": list(removed)}))


def test_page_without_a_state_shows_what_it_has() -> None:
    assert Page(BrowserFeed("secret")).read() == ([], False)


def test_first_state_is_loaded_and_not_announced() -> None:
    page = Page(feed_of(view("dev")))
    assert page.read() == ([], True)
    assert page.read() == ([], False)


def test_new_state_is_announced_once() -> None:
    feed = feed_of(view("dev", SessionState.STARTING))
    page = Page(feed)
    page.read()
    change(feed, READY)
    assert page.read() == (["dev: ready on c1"], True)
    change(feed, READY.model_copy(update={"used_at": 5.0}))
    assert page.read() == ([], True)


def test_new_and_removed_sessions_are_announced() -> None:
    feed = feed_of()
    page = Page(feed)
    page.read()
    change(feed, view("dev"))
    assert page.read() == (["dev: stopped"], True)
    change(feed, removed=(view("dev").id, "unknown"))
    assert page.read() == (["dev is deleted"], True)


def test_page_of_one_session_hears_of_no_other() -> None:
    feed = feed_of(view("dev"), view("other"))
    page = Page(feed, "dev")
    page.read()
    change(feed, view("other", SessionState.QUEUED))
    assert page.read() == ([], False)
    change(feed, removed=(view("other").id,))
    assert page.read() == ([], False)
    change(feed, view("dev", SessionState.QUEUED))
    assert page.read() == (["dev: queued"], True)


def test_slow_page_gets_the_newest_state_of_each_session_once() -> None:
    feed = feed_of(view("dev"), view("other"))
    page = Page(feed)
    page.read()
    for state in (SessionState.QUEUED, SessionState.STARTING) * 1000:
        change(feed, view("dev", state))
    change(feed, READY)
    change(feed, view("other", SessionState.QUEUED))
    assert page.read() == (["dev: ready on c1", "other: queued"], True)
    assert page.read() == ([], False)


def test_deleted_sessions_are_forgotten_after_some() -> None:
    feed = feed_of()
    page = Page(feed)
    page.read()
    for number in range(2 * MAX_REMOVED):
        one = view(f"s{number}", id=f"01{number:024}")
        change(feed, one)
        change(feed, removed=(one.id,))
    lines, is_outdated = page.read()
    assert (len(lines), is_outdated) == (MAX_REMOVED, True)


def test_state_after_a_lost_stream_is_compared_with_the_one_before() -> None:
    feed = feed_of(view("dev"), view("gone"))
    page = Page(feed)
    page.read()
    snapshot(feed, view("dev"), view("new", SessionState.QUEUED))
    assert page.read() == (["new: queued", "gone is deleted"], True)


def test_event_of_a_later_controller_is_ignored() -> None:
    feed = feed_of(view("dev"))
    page = Page(feed)
    page.read()
    feed.apply("later", "{}")
    assert page.read() == ([], False)


def test_login_ends_by_word_and_by_the_clock() -> None:
    async def whole() -> None:
        async with asyncio.timeout(DEADLINE_S):
            feed = feed_of()
            position = feed.news(0).number
            waiting = asyncio.create_task(feed.wait(position, DEADLINE_S))
            await asyncio.sleep(0)
            assert not waiting.done()
            feed.end()
            assert await waiting
            assert feed.has_ended
            expiring = feed_of()
            expiring.expires_at = time.time() + 0.05
            ended = [expiring.has_ended]
            while not expiring.has_ended:
                await expiring.wait(position, DEADLINE_S)
            assert ended == [False]

    asyncio.run(whole())


def test_wait_without_news_ends_in_time() -> None:
    feed = feed_of()
    assert not asyncio.run(feed.wait(feed.news(0).number, 0.01))


async def _parsed(chunks: list[bytes]) -> list[tuple[str, str]]:
    async def all_chunks() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [event async for event in parse_events(all_chunks())]


def test_events_are_found_in_any_chunks() -> None:
    text = b'event: change\nid: b-1\ndata: {"a": 1}\n\n: alive\n\nevent: ended\ndata: x\n\nevent: cut'
    expected = [("change", '{"a": 1}'), ("", ""), ("ended", "x")]
    for size in (1, 7, len(text)):
        assert asyncio.run(_parsed([text[at : at + size] for at in range(0, len(text), size)])) == expected


def test_event_without_an_end_is_refused() -> None:
    chunk = b"x" * 2**20
    with pytest.raises(ValueError, match="an event is too long"):
        asyncio.run(_parsed([chunk] * (MAX_EVENT_BYTES // len(chunk) + 1)))
