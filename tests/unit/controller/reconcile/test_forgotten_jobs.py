"""The loop against a Slurm that forgets jobs: what accounting says of them, and when they are lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.schema.sessions import SessionState
from slurm.scheduler import NoAnswer
from slurm.state import JobState
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from slurm.scheduler import FinishedJob


def test_a_forgotten_job_ends_as_accounting_says(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id, JobState.OUT_OF_MEMORY)
        core.scheduler.forget(session.job.job_id)
        await core.tick()
        assert (core.row().state, core.row().job.outcome) == (SessionState.FAILED, "OUT_OF_MEMORY")

    asyncio.run(scenario())


def test_accounting_of_another_job_with_that_id_is_not_believed(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time)))
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.change(session.job.job_id, user="bob")
        core.scheduler.end(session.job.job_id)
        core.scheduler.forget(session.job.job_id)
        await core.tick()
        assert core.row().state is SessionState.READY
        assert core.row().job.missing_since == clock.now

    asyncio.run(scenario())


class _WithoutAccounting(FakeScheduler):
    async def finished_jobs(self, job_ids: Iterable[int]) -> dict[int, FinishedJob]:
        await super().finished_jobs(job_ids)
        raise NoAnswer("slurmdbd is down")


class _Amnesiac(FakeScheduler):
    async def finished_jobs(self, job_ids: Iterable[int]) -> dict[int, FinishedJob]:
        await super().finished_jobs(job_ids)
        return {}


@pytest.mark.parametrize(("scheduler", "times"), [(_Amnesiac, 1), (_WithoutAccounting, 10)])
def test_a_job_that_nobody_knows_is_lost_only_after_long(
    tmp_path: Path, clock: Clock, scheduler: type[FakeScheduler], times: int
) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(scheduler(now=clock.time)))
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id)
        core.scheduler.forget(session.job.job_id)
        await core.tick()
        clock.now += core.config.slurm.lost_grace * times - 1
        await core.tick()
        assert core.row().state is SessionState.READY
        clock.now += 12
        await core.tick()
        assert (core.row().state, core.row().job.outcome) == (SessionState.FAILED, "LOST")

    asyncio.run(scenario())


def test_a_missing_job_that_comes_back_is_not_lost(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(_Amnesiac(now=clock.time)))
        session = await core.ready()
        assert session.job.job_id is not None
        hidden = core.scheduler._jobs.pop(session.job.job_id)
        await core.tick()
        core.scheduler._jobs[session.job.job_id] = hidden
        clock.now += 1000
        await core.tick()
        assert (core.row().state, core.row().job.missing_since) == (SessionState.READY, None)

    asyncio.run(scenario())


def test_who_cancelled_a_job_is_told_when_accounting_knows(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        scheduler = FakeScheduler(now=clock.time)
        core = Core.make(site_config(tmp_path), FakeLauncher(scheduler))
        job = (await core.ready()).job.job_id
        assert job is not None
        scheduler.end(job, JobState.CANCELLED, cancelled_by="root")
        late = scheduler._accounting.pop(job)  # slurmdbd hears of it later than slurmctld shows it
        await core.tick()
        assert (core.row().state, core.row().reason) == (SessionState.STOPPED, "the job was cancelled outside Berth")
        scheduler._accounting[job] = late
        clock.now += 11
        await core.tick()
        because = "the job was cancelled outside Berth, by root"
        assert core.row().reason == because
        assert [record.reason for record in await core.sessions.jobs("alice", "dev")] == [because]
        asked = len(scheduler.asked)
        clock.now += 60
        await core.tick()
        assert [words for words in scheduler.asked[asked:] if words.startswith("finished")] == []

    asyncio.run(scenario())


def test_a_canceller_whom_nobody_knows_is_not_asked_after_for_ever(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        scheduler = FakeScheduler(now=clock.time)
        core = Core.make(site_config(tmp_path), FakeLauncher(scheduler))
        job = (await core.ready()).job.job_id
        assert job is not None
        scheduler.end(job, JobState.CANCELLED)
        scheduler._accounting.clear()
        for _ in range(20):
            clock.now += 20
            await core.tick()
        asked = len(scheduler.asked)
        clock.now += 20
        await core.tick()
        assert [words for words in scheduler.asked[asked:] if words.startswith("finished")] == []
        assert core.row().reason == "the job was cancelled outside Berth"

    asyncio.run(scenario())
