"""The files that bridge a controller that is away."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING

import pytest

from broker.gateway.response_cache import ResponseCache, prune_periodically
from broker.schema.login import GatewayKeys
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

QUESTION = ("alice", "dev.berth")


class Clock:
    now = 1_000_000.0


def memory(directory: Path) -> ResponseCache[GatewayKeys]:
    return ResponseCache(directory, GatewayKeys, stale_seconds=600, clock=lambda: Clock.now)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "now", 1_000_000.0)


def keys(line: str) -> GatewayKeys:
    return GatewayKeys(user="alice", keys=[line])


def test_another_process_knows_until_it_is_too_old(tmp_path: Path) -> None:
    one, other = memory(tmp_path / "known"), memory(tmp_path / "known")
    assert other.recall(QUESTION) is None
    one.keep(QUESTION, keys("first"))
    assert other.recall(QUESTION) == keys("first")
    assert other.recall(("alice", "other.berth")) is None
    one.keep(QUESTION, keys("second"))
    assert other.recall(QUESTION) == keys("second")
    Clock.now += 601
    assert other.recall(QUESTION) is None
    one.keep(QUESTION, keys("second"))
    assert other.recall(QUESTION) == keys("second")
    other.forget(QUESTION)
    assert one.recall(QUESTION) is None


def test_the_same_answer_is_not_written_at_every_connection(tmp_path: Path) -> None:
    known = memory(tmp_path / "known")
    known.keep(QUESTION, keys("same"))
    (file,) = (tmp_path / "known").iterdir()
    first = file.stat().st_ino
    known.keep(QUESTION, keys("same"))
    assert file.stat().st_ino == first
    Clock.now += 61
    known.keep(QUESTION, keys("same"))
    assert file.stat().st_mtime == Clock.now
    known.forget(QUESTION)
    known.keep(QUESTION, keys("same"))
    assert known.recall(QUESTION) == keys("same"), "what was forgotten is written again"


def test_it_is_the_owners_and_the_old_goes_at_the_next_start(tmp_path: Path) -> None:
    memory(tmp_path / "known").keep(QUESTION, keys("old"))
    assert stat.S_IMODE((tmp_path / "known").stat().st_mode) == 0o700
    Clock.now += 601
    memory(tmp_path / "known")
    assert not list((tmp_path / "known").iterdir())


def test_old_answers_go_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.gateway.response_cache.PRUNE_INTERVAL_S", 0.01)

    async def scene() -> None:
        known = memory(tmp_path / "known")
        known.keep(QUESTION, keys("old"))
        Clock.now += 300
        known.keep(("bob", "dev.berth"), keys("new"))
        Clock.now += 301
        pruning = asyncio.create_task(prune_periodically(known))
        async with asyncio.timeout(DEADLINE_S):
            while len(list((tmp_path / "known").iterdir())) != 1:  # noqa: ASYNC110 - a thread removes it
                await asyncio.sleep(0.01)
        pruning.cancel()
        assert known.recall(("bob", "dev.berth")) == keys("new")

    asyncio.run(scene())


def test_of_too_many_answers_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.gateway.response_cache.MAX_FILES", 10)
    known = memory(tmp_path / "known")
    for number in range(30):
        Clock.now += 1
        known.keep((f"user{number}",), keys("x"))
    known.prune()
    assert len(list((tmp_path / "known").iterdir())) == 10
    assert [number for number in range(30) if known.recall((f"user{number}",))] == list(range(20, 30))


def test_what_is_not_an_answer_is_none(tmp_path: Path) -> None:
    known = memory(tmp_path / "known")
    known.keep(QUESTION, keys("x"))
    (file,) = (tmp_path / "known").iterdir()
    file.write_text("{")
    assert known.recall(QUESTION) is None


def test_a_disk_that_takes_nothing_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = memory(tmp_path / "known")
    (tmp_path / "known").rmdir()
    known.keep(QUESTION, keys("x"))
    assert "is not remembered" in caplog.text
    assert known.recall(QUESTION) is None
