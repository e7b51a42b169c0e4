"""A submission without a clear answer: the loop repeats it once it is known that there is no job."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.controller.registry.registry import EventEntry
from broker.schema.sessions import SessionState
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher, MumblingLauncher
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from pathlib import Path


def test_a_submission_that_a_crash_interrupted_is_made_by_the_next_tick(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        image = core.stores.find("base")
        row = make_session(state=SessionState.SUBMITTING, digest=image.digest, image_path=str(image.path), host_key="")
        core.registry.create(row, EventEntry("alice", "start"))
        await core.tick()
        assert core.row().job.job_id == 1
        assert core.launcher.submissions() == 1
        await core.tick()
        assert core.launcher.submissions() == 1

    asyncio.run(scenario())


def test_an_answer_that_is_older_than_the_submission_does_not_repeat_it(tmp_path: Path) -> None:
    """The tick saw the session before it had been submitted, and acts on that only when it has been."""

    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        image = core.stores.find("base")
        row = make_session(state=SessionState.SUBMITTING, digest=image.digest, image_path=str(image.path), host_key="")
        session = core.registry.create(row, EventEntry("alice", "start"))
        await core.submitter.submit(session)
        seen = make_session(id=session.id, state=SessionState.SUBMITTING, digest=image.digest)
        await core.reconciler._resume(seen, asked_at=0.0)
        await core.settle()
        assert core.launcher.submissions() == 1
        assert core.row().job.job_id == 1

    asyncio.run(scenario())


def test_an_unclear_submission_is_repeated_only_after_the_grace(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        launcher = MumblingLauncher(FakeScheduler(now=clock.time))
        launcher.queues = False
        core = Core.make(site_config(tmp_path), launcher)
        await core.start()
        clock.now += core.config.slurm.submit_grace - 1
        await core.tick()
        assert launcher.submissions() == 1
        clock.now += 2
        await core.tick()
        assert launcher.submissions() == 2
        launcher.deliver()
        await core.tick()
        await core.tick()
        assert len(core.live_jobs(core.row())) == 1

    asyncio.run(scenario())
