"""A change wakes the tasks that wait for its session, no others, and none misses it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.controller import wakeup
from broker.controller.wakeup import ChangeNotifier
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    import pytest


def test_a_change_wakes_the_waiters_of_its_session_only() -> None:
    async def scenario() -> None:
        changes = ChangeNotifier()
        waits = {name: asyncio.create_task(changes.wait([name], changes.number, DEADLINE_S)) for name in ("one", "two")}
        both = asyncio.create_task(changes.wait(["one", "three"], changes.number, DEADLINE_S))
        await asyncio.sleep(0)
        changes.notify("one")
        await asyncio.gather(waits["one"], both)
        assert not waits["two"].done()
        assert changes.is_followed("two", "alice")
        assert not changes.is_followed("one", "alice")
        changes.announce("two", "alice")
        await waits["two"]

    asyncio.run(scenario())


def test_a_change_before_the_wait_is_not_missed() -> None:
    async def scenario() -> None:
        changes = ChangeNotifier()
        seen = changes.number
        changes.notify("one")
        async with asyncio.timeout(DEADLINE_S):
            await changes.wait(["one"], seen, 10 * DEADLINE_S)
        waiting = asyncio.create_task(changes.wait(["two"], seen, 10 * DEADLINE_S))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(scenario())


def test_a_forgotten_change_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "MAX_REMEMBERED", 2)

    async def scenario() -> None:
        changes = ChangeNotifier()
        seen = changes.number
        for name in ("one", "two", "three"):
            changes.notify(name)
        async with asyncio.timeout(DEADLINE_S):
            await changes.wait(["one"], seen, 10 * DEADLINE_S)

    asyncio.run(scenario())


def test_the_end_of_the_caller_ends_the_wait() -> None:
    async def scenario() -> None:
        changes, gone = ChangeNotifier(), asyncio.Event()
        waiting = asyncio.create_task(changes.wait(["one"], changes.number, 10 * DEADLINE_S, gone))
        await asyncio.sleep(0)
        gone.set()
        async with asyncio.timeout(DEADLINE_S):
            await waiting
        assert not changes.is_followed("one", "alice")

    asyncio.run(scenario())


def test_a_watch_hears_of_the_sessions_of_its_owner() -> None:
    heard: list[str | None] = []
    changes = ChangeNotifier()
    changes.watch("alice", heard.append)
    changes.announce("one", "alice")
    changes.announce("two", "bob")
    changes.notify("three")
    changes.announce_all()
    assert heard == ["one", None]
    changes.unwatch("alice")
    changes.announce("one", "alice")
    assert heard == ["one", None]
