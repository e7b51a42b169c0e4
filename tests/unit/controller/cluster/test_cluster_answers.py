"""One query serves all who look; while Slurm does not answer, the last answer is kept with its age."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker.controller.cluster import answers
from broker.controller.cluster.answers import CachedQuery, ClusterAnswers
from slurm.scheduler import NoAnswer
from tests.fakes.scheduler import FakeScheduler, SilentScheduler, SlowScheduler

if TYPE_CHECKING:
    from tests.fakes.core import Clock

AGE_S = 30.0


def test_many_callers_at_once_cause_one_query() -> None:
    async def scenario() -> None:
        slow = SlowScheduler()
        shared = ClusterAnswers(slow)
        callers = [asyncio.create_task(shared.nodes.latest_answer(AGE_S)) for _ in range(50)]
        await slow.reached.wait()
        slow.let_go.set()
        assert len({id(answer) for answer in await asyncio.gather(*callers)}) == 1
        assert slow.asked == ["nodes"]

    asyncio.run(scenario())


def test_answer_serves_for_its_time_and_each_query_has_its_own(clock: Clock) -> None:
    async def scenario() -> None:
        scheduler = FakeScheduler()
        shared = ClusterAnswers(scheduler)
        first = await shared.queue.latest_answer(AGE_S)
        clock.now += AGE_S - 1
        assert await shared.queue.latest_answer(AGE_S) is first
        await shared.partitions.latest_answer(AGE_S)
        clock.now += 1
        second = await shared.queue.latest_answer(AGE_S)
        assert second.at == first.at + AGE_S
        assert scheduler.asked == ["queue", "partitions", "queue"]

    asyncio.run(scenario())


def test_failed_query_is_not_repeated_within_the_time(clock: Clock) -> None:
    async def scenario() -> None:
        silent = SilentScheduler()
        silent.silent = False
        shared = ClusterAnswers(silent)
        answer = await shared.nodes.latest_answer(AGE_S)
        silent.silent = True
        clock.now += AGE_S
        for _ in range(5):
            assert await shared.nodes.latest_answer(AGE_S) == replace(answer, is_stale=True)
            with pytest.raises(NoAnswer):
                await shared.nodes.fresh_answer(AGE_S)
        assert silent.asked == ["nodes", "nodes"]
        with pytest.raises(NoAnswer):
            await shared.nodes.fresh_answer(0)
        assert silent.asked == ["nodes"] * 3, "a caller that needs the present state queries again"
        silent.silent = False
        clock.now += AGE_S
        assert (await shared.nodes.latest_answer(AGE_S)).at == clock.now

    asyncio.run(scenario())


def test_failed_query_is_repeated_soon_however_long_an_answer_serves(clock: Clock) -> None:
    async def scenario() -> None:
        silent = SilentScheduler()
        shared = ClusterAnswers(silent)
        with pytest.raises(NoAnswer):
            await shared.private_data.latest_answer(600)
        silent.silent = False
        clock.now += answers.RETRY_S
        assert (await shared.private_data.latest_answer(600)).value == frozenset()

    asyncio.run(scenario())


def test_caller_does_not_wait_for_a_slow_slurm(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PATIENCE_S", 0.01)
    monkeypatch.setattr(answers, "FIRST_PATIENCE_S", 0.02)

    async def scenario() -> None:
        slow = SlowScheduler()
        query = CachedQuery("nodes", slow.nodes)
        with pytest.raises(NoAnswer, match=r"no answer in 0\.02 s"):
            await query.latest_answer(AGE_S)
        slow.let_go.set()
        first = await query.latest_answer(AGE_S)
        slow.let_go.clear()
        clock.now += AGE_S
        assert await query.latest_answer(AGE_S) == replace(first, is_stale=True)
        slow.let_go.set()
        assert await query.fresh_answer(AGE_S) is not first
        assert slow.asked == ["nodes", "nodes"], "a query continues for the callers to come"

    asyncio.run(scenario())


def test_close_cancels_the_query() -> None:
    async def scenario() -> None:
        slow = SlowScheduler()
        shared = ClusterAnswers(slow)
        caller = asyncio.create_task(shared.nodes.fresh_answer(AGE_S))
        await slow.reached.wait()
        await shared.close()
        with pytest.raises(asyncio.CancelledError):
            await caller

    asyncio.run(scenario())
