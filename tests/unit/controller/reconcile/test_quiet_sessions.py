"""A tick passes over queued sessions of which nothing has changed, and over no others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.errors import BerthError
from broker.schema.sessions import SessionState, StopTime
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from broker.controller.registry.models import Session
    from tests.fakes.core import Clock


class Reads:
    """A controller with two queued sessions, and the ids of the rows that each tick has read."""

    def __init__(self, directory: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.core = Core.make(site_config(directory), FakeLauncher(FakeScheduler(now=clock.time)))
        self._by_ids = self.core.registry.by_ids
        self._read: set[str] = set()
        monkeypatch.setattr(self.core.registry, "by_ids", self._note)

    def _note(self, ids: Iterable[str]) -> list[Session]:
        self._read |= set(ids)
        return self._by_ids(ids)

    async def begin(self) -> None:
        for name in ("one", "two"):
            await self.core.start(name)
        await self.core.tick()
        await self.core.tick()
        assert {session.state for session in self.core.registry.sessions_of("alice")} == {SessionState.QUEUED}
        assert await self.tick() == set()

    async def tick(self) -> set[str]:
        """Return the names of the sessions that a tick has read."""
        self._read.clear()
        await self.core.tick()
        return {session.name for session in self._by_ids(self._read)}

    def job(self, name: str) -> int:
        job_id = self.core.row(name).job.job_id
        assert job_id is not None
        return job_id


@pytest.fixture
def reads(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(tmp_path, clock, monkeypatch)


def start(reads: Reads) -> None:
    reads.core.scheduler.start(reads.job("one"))


def cancel(reads: Reads) -> None:
    reads.core.scheduler.end(reads.job("one"))


def change_reason(reads: Reads) -> None:
    reads.core.scheduler.change(reads.job("one"), reason="Resources")


def requeue(reads: Reads) -> None:
    reads.core.scheduler.requeue(reads.job("one"))


def forget(reads: Reads) -> None:
    reads.core.scheduler.forget(reads.job("one"))


def change_row(reads: Reads) -> None:
    reads.core.registry.update(reads.core.row("one").id, lambda _: ({"idle": "8h"}, None))


@pytest.mark.parametrize("change", [start, cancel, change_reason, requeue, forget, change_row])
def test_a_changed_session_is_read_and_the_other_is_not(reads: Reads, change: Callable[[Reads], None]) -> None:
    async def scenario() -> None:
        await reads.begin()
        change(reads)
        assert await reads.tick() == {"one"}

    asyncio.run(scenario())


def test_a_moved_place_reads_no_session(reads: Reads) -> None:
    async def scenario() -> None:
        await reads.begin()
        before = reads.core.row("two").revision
        assert (await reads.core.sessions.show("alice", "two")).ahead == 1
        start(reads)
        assert await reads.tick() == {"one"}
        assert (await reads.core.sessions.show("alice", "two")).ahead == 0
        assert reads.core.row("two").revision == before

    asyncio.run(scenario())


def test_a_session_with_a_stop_time_is_read_until_it_is_stopped(reads: Reads, clock: Clock) -> None:
    async def scenario() -> None:
        await reads.begin()
        await reads.core.policies.set_stop_time("alice", "one", StopTime(at=clock.now + 60))
        for _ in range(2):
            assert "one" in await reads.tick()
        clock.now += 61
        await reads.core.tick()
        assert reads.core.row("one").state is SessionState.STOPPING

    asyncio.run(scenario())


def test_a_second_job_of_a_quiet_session_is_cancelled(reads: Reads) -> None:
    async def scenario() -> None:
        await reads.begin()
        row = reads.core.row("one")
        second = reads.core.scheduler.submit(f"berth-{row.id}", comment=f"berth:{row.id}:1")
        await reads.core.tick()
        assert reads.core.scheduler._jobs[second].state.ended
        assert not reads.core.scheduler._jobs[reads.job("one")].state.ended

    asyncio.run(scenario())


def test_an_observation_that_was_not_recorded_is_repeated(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await reads.begin()
        change_reason(reads)
        with monkeypatch.context() as patch:

            def fail(*_: object) -> Session:
                raise BerthError("the disk is full")

            patch.setattr(reads.core.registry, "update", fail)
            await reads.core.tick()
        assert reads.core.row("one").reason == ""
        await reads.core.tick()
        assert reads.core.row("one").reason == "Resources"

    asyncio.run(scenario())


def test_a_quiet_session_keeps_the_queries_frequent(reads: Reads) -> None:
    async def scenario() -> None:
        await reads.begin()
        assert reads.core.reconciler.moving
        for name in ("one", "two"):
            reads.core.scheduler.start(reads.job(name))
            reads.core.announce(reads.core.row(name))
        for _ in range(2):
            await reads.core.tick()
        assert not reads.core.reconciler.moving

    asyncio.run(scenario())
