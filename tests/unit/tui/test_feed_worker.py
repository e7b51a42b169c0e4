"""The worker that follows the sessions: news are merged, and a lost connection keeps its time."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import DEADLINE_S
from tests.fakes.tui_feed import DrivenFeed, make_view
from tests.lab_cluster import wait_for
from tui.core.connection_state import Link
from tui.messages import ConnectionChanged, NewsArrived
from tui.workers.feed_worker import FeedWorker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual.message import Message

    from tui.core.connection_state import ConnectionState


class Inbox:
    """The messages of a worker, and a clock that a test sets."""

    def __init__(self, feed: DrivenFeed) -> None:
        self._messages: queue.Queue[Message] = queue.Queue()
        self.now = 1000.0
        self.worker = FeedWorker(feed.open, self._messages.put, lambda: self.now)
        self.worker.start()

    def wait_for_state(self, link: Link) -> ConnectionState:
        while True:
            message = self._messages.get(timeout=DEADLINE_S)
            if isinstance(message, ConnectionChanged) and message.state.link is link:
                return message.state

    def news(self) -> int:
        """Number of announcements that wait."""
        return sum(isinstance(message, NewsArrived) for message in list(self._messages.queue))


@pytest.fixture
def feed() -> DrivenFeed:
    return DrivenFeed([make_view("dev")])


@pytest.fixture
def inbox(feed: DrivenFeed) -> Iterator[Inbox]:
    inbox = Inbox(feed)
    inbox.wait_for_state(Link.LIVE)
    yield inbox
    inbox.worker.stop()
    feed.lose()


def test_news_that_wait_are_one_announcement(feed: DrivenFeed, inbox: Inbox) -> None:
    for revision in range(2, 500):
        feed.change(make_view("dev", "stopped", revision=revision))
    feed.change(make_view("new"), removed=["id-dev"])
    wait_for(lambda: "id-new" in inbox.worker._changed, what="the last change")
    assert inbox.news() <= 1
    snapshot, change = inbox.worker.take()
    assert snapshot is not None
    assert [view.id for view in change.changed] == ["id-new"]
    assert list(change.removed) == ["id-dev"]
    assert inbox.worker.take()[0] is None


def test_lost_connection_keeps_the_time_of_its_loss(feed: DrivenFeed, inbox: Inbox) -> None:
    inbox.now = 2000.0
    feed.lose()
    assert inbox.wait_for_state(Link.LOST).as_of == 2000.0
    inbox.now = 3000.0
    attempts = feed.connections
    wait_for(lambda: feed.connections > attempts + 1, what="two more attempts")
    assert inbox.worker._state.as_of == 2000.0
    feed.reachable = True
    inbox.worker.reconnect()
    assert inbox.wait_for_state(Link.LIVE).as_of is None
