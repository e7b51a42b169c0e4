"""Queries for the jobs of moving sessions by their ids, between two queries for all jobs that take long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.reconcile import moving_sessions, query_pace
from broker.controller.reconcile.query_pace import IDLE_QUERY_S, LOAD_FACTOR, MOVING_QUERY_S, QueryPace
from broker.schema.sessions import SessionState
from slurm.scheduler import NoAnswer
from slurm.state import JobState
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from slurm.scheduler import Job
    from tests.fakes.core import Clock


class SlowScheduler(FakeScheduler):
    """A large cluster: a query for all jobs takes a second of the test's clock, and one by ids takes none."""

    clock: Clock
    silent = False

    async def jobs(self, name_prefix: str) -> list[Job]:
        self.clock.now += 1.0
        if self.silent:
            raise NoAnswer("slurmctld is busy")
        return await super().jobs(name_prefix)

    async def jobs_by_id(self, job_ids: object) -> list[Job]:
        if self.silent:
            raise NoAnswer("slurmctld is busy")
        return await super().jobs_by_id(job_ids)  # type: ignore[arg-type]


@pytest.fixture
def core(tmp_path: Path, clock: Clock) -> Core:
    scheduler = SlowScheduler(now=clock.time)
    scheduler.clock = clock
    return Core.make(site_config(tmp_path), FakeLauncher(scheduler))


def play(core: Core, scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await core.start()
        await core.tick()  # for all jobs: it takes long
        await core.tick()
        assert core.row().state is SessionState.QUEUED
        core.scheduler.asked.clear()
        await scenario()

    asyncio.run(whole())


async def step(core: Core) -> str:
    """Make the next tick, and return its query for jobs."""
    before = len(core.scheduler.asked)
    await core.reconciler.next_tick()
    await core.settle()
    return next(asked.partition(" ")[0] for asked in core.scheduler.asked[before:] if asked.startswith("jobs"))


def job(core: Core) -> int:
    job_id = core.row().job.job_id
    assert job_id is not None
    return job_id


def test_a_session_becomes_ready_by_queries_by_id(core: Core) -> None:
    async def scenario() -> None:
        core.scheduler.start(job(core))
        assert await step(core) == "jobs_by_id"
        assert core.row().state is SessionState.STARTING
        core.announce(core.row())
        assert await step(core) == "jobs_by_id"
        assert core.row().state is SessionState.READY

    play(core, scenario)


def test_a_request_queries_all_jobs_and_the_end_is_then_seen_by_id(core: Core) -> None:
    async def scenario() -> None:
        core.scheduler.start(job(core))
        await core.sessions.stop("alice", "dev")
        assert await step(core) == "jobs"
        assert core.scheduler.asked[-1] == f"cancel {job(core)}"
        assert await step(core) == "jobs_by_id"
        assert core.row().state is SessionState.STOPPED

    play(core, scenario)


def test_a_job_that_slurm_has_forgotten_ends_by_accounting(core: Core) -> None:
    async def scenario() -> None:
        job_id = job(core)
        core.scheduler.start(job_id)
        core.scheduler.end(job_id, JobState.FAILED, exit_code=1)
        core.scheduler.forget(job_id)
        assert await step(core) == "jobs_by_id"
        assert core.row().state is SessionState.FAILED

    play(core, scenario)


def test_all_jobs_are_queried_after_a_while(core: Core, clock: Clock) -> None:
    async def scenario() -> None:
        assert await step(core) == "jobs_by_id"
        clock.now += IDLE_QUERY_S
        assert await step(core) == "jobs"

    play(core, scenario)


def test_a_requeued_job_waits_for_a_query_that_can_name_the_reason(core: Core) -> None:
    async def scenario() -> None:
        core.scheduler.start(job(core))
        assert await step(core) == "jobs_by_id"
        core.scheduler.requeue(job(core))
        assert await step(core) == "jobs_by_id"
        assert core.row().job.restarts == 0
        assert await step(core) == "jobs"
        assert core.row().job.restarts == 1

    play(core, scenario)


def test_without_an_answer_the_next_query_is_for_all_jobs(core: Core) -> None:
    async def scenario() -> None:
        assert isinstance(core.scheduler, SlowScheduler)
        core.scheduler.silent = True
        stale = []
        for _ in range(2):
            await core.reconciler.next_tick()
            stale.append(core.reconciler.observed.stale_since is not None)
        assert stale == [False, True]
        assert core.reconciler._pace.pause(0.0) >= LOAD_FACTOR

    play(core, scenario)


def record(core: Core, **values: object) -> None:
    core.registry.update(core.row().id, lambda _: (values, None))


@pytest.mark.parametrize("values", [{"submissions": 2}, {"held_job_id": 99}])
def test_a_session_that_may_have_another_job_needs_a_query_for_all(core: Core, values: dict[str, object]) -> None:
    async def scenario() -> None:
        record(core, **values)
        assert await step(core) == "jobs"

    play(core, scenario)


def test_more_moving_sessions_than_one_query_takes_need_a_query_for_all(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving_sessions, "MAX_BY_ID", 0)

    async def scenario() -> None:
        assert await step(core) == "jobs"

    play(core, scenario)


def test_a_session_whose_volumes_change_needs_a_query_for_all(core: Core) -> None:
    async def scenario() -> None:
        record(core, state=SessionState.DELETING)
        await core.start("other")
        assert await step(core) == "jobs"
        assert await step(core) == "jobs"

    play(core, scenario)


def test_a_session_of_a_small_cluster_is_seen_by_a_query_for_all(tmp_path: Path) -> None:
    core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))

    async def scenario() -> None:
        assert await step(core) == "jobs"

    play(core, scenario)


def test_places_in_the_queue_stay_until_the_job_starts(core: Core) -> None:
    async def scenario() -> None:
        assert (await core.sessions.show("alice", "dev")).ahead == 0
        assert await step(core) == "jobs_by_id"
        assert (await core.sessions.show("alice", "dev")).ahead == 0
        core.scheduler.start(job(core))
        assert await step(core) == "jobs_by_id"
        assert (await core.sessions.show("alice", "dev")).ahead is None

    play(core, scenario)


@pytest.fixture
def pace(clock: Clock) -> QueryPace:
    """A pace after a query for all jobs of one second, with a session that moves."""
    made = QueryPace(wants_all=False, rest=True, suffices=True)
    clock.now += 1.0
    made.note_query(clock.now - 1.0)
    return made


def test_queries_by_id_come_as_often_as_on_a_small_cluster(pace: QueryPace, clock: Clock) -> None:
    pace.note_change()
    assert pace.pause(0.0) == query_pace.FIRST_QUERY_S
    clock.now += 10.0
    assert pace.pause(0.0) == pytest.approx(1.0)


def test_a_query_for_all_waits_at_least_five_times_its_duration(pace: QueryPace, clock: Clock) -> None:
    pace.suffices = False
    assert pace.pause(0.0) == LOAD_FACTOR
    pace.suffices = True
    pace.ends = [clock.now + 0.5]
    assert not pace.all_due
    clock.now += LOAD_FACTOR
    assert pace.all_due


def test_a_query_for_all_comes_soon_after_a_job_was_to_end(pace: QueryPace, clock: Clock) -> None:
    pace.ends = [clock.now + 8.0]
    clock.now += 7.9
    assert not pace.all_due
    assert pace.pause(0.0) <= min(MOVING_QUERY_S, 1.0)
    clock.now += 0.2
    assert pace.all_due
