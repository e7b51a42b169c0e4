"""A session that continues in another job: what tests of it do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from slurm.state import JobState
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from broker.controller.registry.models import Session

HOUR = 3600.0
"""The time limit of the fake Slurm's jobs."""


def play(
    place: Path,
    clock: Clock,
    scene: Callable[[Core], Awaitable[None]],
    launcher: type[FakeLauncher] = FakeLauncher,
    **slurm: Any,  # noqa: ANN401 - settings
) -> None:
    async def whole() -> None:
        config = site_config(place, slurm={"continuation": "always"} | slurm)
        core = Core.make(config, launcher(FakeScheduler(now=clock.time)))
        async with asyncio.timeout(TEST_DEADLINE_S):
            await scene(core)

    asyncio.run(whole())


async def with_successor(core: Core, clock: Clock) -> Session:
    """A ready session, near the end of its job's time, whose next job waits."""
    await core.ready()
    clock.now += HOUR - 500
    await core.tick()
    session = core.row()
    assert session.next_job_id is not None
    return session


def end(core: Core, session: Session, state: JobState = JobState.TIMEOUT) -> None:
    assert session.job.job_id is not None
    core.scheduler.end(session.job.job_id, state)


def start(core: Core, job_id: int | None, node: str = "c1") -> None:
    assert job_id is not None
    core.scheduler.start(job_id, node)


async def actions(core: Core) -> list[tuple[str, str]]:
    return [(event.action, event.detail) for event in await core.sessions.events("alice", "dev", connections=False)]
