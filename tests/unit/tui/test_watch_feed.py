"""The first feed of the interface: a thread reads its snapshot ahead, whatever the controller sends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from broker.client.client import Client
from broker.errors import BerthError, ControllerUnavailableError
from tests.deadlines import DEADLINE_S
from tests.unit.client.test_watch import CHANGE, HEAD, SNAPSHOT
from tests.unit.client.test_wire import answering
from tui.core.feed import FeedChange, FeedSnapshot
from tui.workers.watch_feed import FeedOpener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_the_snapshot_is_read_before_anybody_asks_for_it() -> None:
    is_read = threading.Event()

    def parts() -> Iterator[bytes]:
        yield HEAD + SNAPSHOT[:-2] + b" " * (1 << 20)  # more than the buffers hold: who sends it waits for a reader
        is_read.set()
        yield b"\n\n" + CHANGE

    with answering(then=parts()) as (path, _):
        opener = FeedOpener(lambda: Client(path))
        assert is_read.wait(DEADLINE_S)
        feed = opener.open()
        events = feed.events()
        snapshot, change = next(events), next(events)
        feed.close()
    assert isinstance(snapshot, FeedSnapshot)
    assert [view.name for view in snapshot.sessions] == ["dev"]
    assert change == FeedChange([], ["01dev"])


def test_what_fails_ahead_is_raised_by_the_events() -> None:
    with answering(HEAD + SNAPSHOT[:20]) as (path, _):
        feed = FeedOpener(lambda: Client(path)).open()
        with pytest.raises(ControllerUnavailableError, match="ended the stream"):
            next(feed.events())
        feed.close()


def test_close_ends_the_reading_ahead() -> None:
    end = threading.Event()

    def parts() -> Iterator[bytes]:
        yield HEAD
        end.wait(DEADLINE_S)

    with answering(then=parts()) as (path, _):
        feed = FeedOpener(lambda: Client(path)).open()
        feed.close()
        assert list(feed.events()) == []
        end.set()


def test_a_refusal_is_raised_by_open(tmp_path: Path) -> None:
    opener = FeedOpener(lambda: Client(tmp_path / "api.sock"))
    with pytest.raises(BerthError, match="does not answer"):
        opener.open()
