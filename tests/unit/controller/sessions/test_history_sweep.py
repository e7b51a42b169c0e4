"""Old history is removed at the controller's start, in several transactions, and a failure is tried again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from broker.controller.registry.history_rows import RemovedHistory
from broker.controller.registry.transactions import RegistryError
from broker.controller.sessions import history_sweep
from broker.controller.sessions.history_sweep import HistorySweep

if TYPE_CHECKING:
    from tests.fakes.core import Clock


class HistoryOf:
    """A registry with so many old rows of each kind, of which each call removes up to ten."""

    def __init__(self, events: int, jobs: int, sessions: int) -> None:
        self.left = [events, jobs, sessions]
        self.before: list[float] = []
        self.fails = False
        self.calls = asyncio.Semaphore(0)

    async def remove_history(self, before: float) -> RemovedHistory:
        self.before.append(before)
        self.calls.release()
        if self.fails:
            raise RegistryError("the registry cannot be used now")
        removed = [min(each, 10) for each in self.left]
        self.left = [had - gone for had, gone in zip(self.left, removed, strict=True)]
        return RemovedHistory(*removed)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_sweep, "PAUSE_S", 0.0)


def test_sweep_removes_everything_that_is_too_old_and_says_what(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    history = HistoryOf(25, 3, 1)
    with caplog.at_level(logging.INFO):
        removed = asyncio.run(HistorySweep(history, days=30).sweep())  # type: ignore[arg-type]  # what it calls
    assert removed == RemovedHistory(25, 3, 1)
    assert history.left == [0, 0, 0]
    assert set(history.before) == {clock.now - 30 * 86400}
    assert "history removed events=25 jobs=3 deleted_sessions=1" in caplog.text


def test_sweep_without_old_rows_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        asyncio.run(HistorySweep(HistoryOf(0, 0, 0), days=30).sweep())  # type: ignore[arg-type]  # what it calls
    assert caplog.text == ""


def test_sweep_that_fails_is_repeated_the_next_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    history = HistoryOf(1, 1, 1)
    history.fails = True
    monkeypatch.setattr(history_sweep, "DAY_S", 0.0)

    async def scenario() -> None:
        running = asyncio.create_task(HistorySweep(history, days=30).run())  # type: ignore[arg-type]  # what it calls
        for _ in range(3):
            await history.calls.acquire()
        history.fails = False
        await history.calls.acquire()
        running.cancel()

    asyncio.run(scenario())
    assert history.left == [0, 0, 0]
    assert caplog.text.count("old history not removed") == 1
