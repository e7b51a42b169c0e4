"""A ready session that is resized, for tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.schema.sessions import SessionState
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher, MumblingLauncher, RefusingLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import pytest

    from broker.controller.registry.models import Session
    from broker.schema.sessions import PresentJob
    from slurm.state import JobState

MORE = ["--mem=2G"]


class Scene:
    """A ready session, and the job that is to replace its present one."""

    def __init__(self, core: Core, clock: Clock, first: int) -> None:
        self.core = core
        self.clock = clock
        self.first = first

    async def resize(self, present_job: PresentJob = "auto") -> int:
        """Resize; return the successor's job id."""
        view = await self.core.resize.resize("alice", "dev", MORE, present_job)
        assert view.next_job_id is not None
        return view.next_job_id

    async def takes_over(self) -> None:
        """The successor runs, and says that it waits for the volumes."""
        row = self.row
        assert row.next_job_id is not None
        self.core.scheduler.start(row.next_job_id, "c2")
        self.core.waits(row)
        await self.core.tick()

    async def ticks(self, count: int = 2) -> None:
        for _ in range(count):
            self.clock.now += 1
            await self.core.tick()

    @property
    def row(self) -> Session:
        return self.core.row()

    @property
    def live(self) -> dict[int, JobState]:
        return self.core.live_jobs(self.row)

    async def events(self) -> list[str]:
        return [f"{event.action} {event.detail}" for event in await self.core.sessions.events("alice", "dev")]

    def keeps(self) -> bool:
        """Whether the session is as before the resize."""
        row = self.row
        return (row.state, row.job.job_id, row.options, row.resizing) == (SessionState.READY, self.first, [], False)


def play(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[Scene], Awaitable[None]],
    launcher: type[FakeLauncher] = FakeLauncher,
    scheduler: type[FakeScheduler] = FakeScheduler,
) -> None:
    clock = Clock().install(monkeypatch)

    async def play_scene() -> None:
        made = launcher(scheduler(now=clock.time))
        if isinstance(made, RefusingLauncher):
            made.words = ""
        if isinstance(made, MumblingLauncher):
            made.unclear = False
        core = Core.make(site_config(tmp_path), made)
        session = await core.ready()
        assert session.job.job_id is not None
        await scenario(Scene(core, clock, session.job.job_id))
        await core.settle()

    asyncio.run(play_scene())
