"""Jobs that the loop cancels, again if they do not end, and jobs of others that it leaves alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.registry.registry import EventEntry
from broker.schema.sessions import SessionState
from slurm.scheduler import Refused
from slurm.state import JobState
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler, StubbornScheduler

if TYPE_CHECKING:
    from pathlib import Path


def test_a_job_that_will_not_die_is_cancelled_again_but_not_in_each_tick(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(StubbornScheduler(now=clock.time)))
        session = await core.ready()
        await core.sessions.stop("alice", "dev")
        for _ in range(3):
            await core.tick()
        order = f"cancel {session.job.job_id}"
        assert core.scheduler.asked.count(order) == 1
        assert core.row().state is SessionState.STOPPING
        clock.now += 16
        await core.tick()
        assert core.scheduler.asked.count(order) == 2
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id, JobState.CANCELLED)
        await core.tick()
        assert core.row().state is SessionState.STOPPED

    asyncio.run(scenario())


def test_a_stray_that_will_not_die_is_cancelled_again_but_not_in_each_tick(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(StubbornScheduler(now=clock.time)))
        session = await core.ready()
        stray = core.scheduler.submit(f"berth-{session.id}", comment=f"berth:{session.id}:1")
        core.scheduler.start(stray)
        for _ in range(3):
            await core.tick()
        assert core.scheduler.asked.count(f"cancel {stray}") == 1
        clock.now += 16
        await core.tick()
        assert core.scheduler.asked.count(f"cancel {stray}") == 2
        assert core.row().job.job_id == session.job.job_id

    asyncio.run(scenario())


class _RefusingScheduler(FakeScheduler):
    async def cancel(self, job_id: int) -> None:
        await self._note(f"cancel {job_id}")
        raise Refused("Access/permission denied")


def test_a_cancel_that_slurm_refuses_holds_up_nobody(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(_RefusingScheduler(now=clock.time)))
        session = await core.ready("first")
        core.scheduler.submit(f"berth-{session.id}")
        await core.sessions.stop("alice", "first")
        registry = core.registry
        registry.create(make_session(name="second", state=SessionState.DELETING), EventEntry("alice", "delete"))
        await core.tick()
        await core.tick()
        assert registry.find("alice", "second") is None
        assert core.scheduler.asked.count(f"cancel {session.job.job_id}") == 1
        assert [event.action for event in registry.events_of("alice", session.id)].count("cancel-refused") == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("state", [SessionState.STOPPED, SessionState.FAILED, SessionState.DELETED])
def test_a_live_job_of_a_session_that_has_none_is_cancelled(tmp_path: Path, state: SessionState) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        session = core.registry.create(make_session(state=state), EventEntry("alice", "start"))
        late = core.scheduler.submit(f"berth-{session.id}", comment=f"berth:{session.id}:1")
        await core.tick()
        assert core.scheduler._jobs[late].state is JobState.CANCELLED

    asyncio.run(scenario())


def test_jobs_of_others_and_of_unknown_sessions_are_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        await core.start()
        session = core.row()
        bobs = core.scheduler.submit(f"berth-{session.id}", user="bob", comment=f"berth:{session.id}:1")
        unknown = core.scheduler.submit(
            "berth-01jd0000000000000000000000", comment="berth:01jd0000000000000000000000:1"
        )
        await core.tick()
        assert not core.scheduler._jobs[bobs].state.ended
        assert not core.scheduler._jobs[unknown].state.ended
        assert core.row().job.job_id == session.job.job_id

    asyncio.run(scenario())
