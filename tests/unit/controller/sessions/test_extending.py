"""`berth extend`: where Slurm and the site allow it, and what is said where they do not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.errors import ConflictError, NotFoundError, RefusedError, SlurmUnavailableError
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler, SilentScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

HOUR = 3600.0


def play(
    place: Path,
    scene: Callable[[Core], Awaitable[None]],
    scheduler: FakeScheduler,
    *,
    longest: float | None = 4 * HOUR,
    continuation: str = "never",
) -> None:
    async def whole() -> None:
        config = site_config(place, slurm={"longest_job": longest, "continuation": continuation})
        async with asyncio.timeout(TEST_DEADLINE_S):
            await scene(Core.make(config, FakeLauncher(scheduler)))

    asyncio.run(whole())


def test_the_limit_is_raised_by_whole_minutes(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.ends_at is not None
        view = await core.extend.extend("alice", "dev", 2 * HOUR - 30)
        assert f"set_time_limit {session.job.job_id} 180" in core.scheduler.asked
        assert view.ends_at == session.job.ends_at + 2 * HOUR
        await core.tick()
        assert core.row().job.ends_at == view.ends_at
        assert [event.action for event in await core.sessions.events("alice", "dev")][-1] == "extend"

    play(tmp_path, scene, FakeScheduler(now=clock.time))


@pytest.mark.parametrize(
    ("longest", "continuation", "message", "instead"),
    [
        (None, "never", "this site does not extend jobs", "then the session stops and keeps its files"),
        (
            2 * HOUR,
            "always",
            "the job has 1 h already; this site extends no job beyond 2 h in total",
            "then the session continues in another job",
        ),
        (
            2 * HOUR,
            "12h",
            "the job has 1 h already; this site extends no job beyond 2 h in total",
            "then the session continues in another job if used in the last 12h",
        ),
    ],
)
def test_what_the_site_does_not_allow_is_refused_with_what_happens_instead(
    tmp_path: Path, clock: Clock, *, longest: float | None, continuation: str, message: str, instead: str
) -> None:
    async def scene(core: Core) -> None:
        before = await core.ready()
        with pytest.raises(RefusedError) as refused:
            await core.extend.extend("alice", "dev", 4 * HOUR)
        assert refused.value.message.startswith(message)
        assert refused.value.hint.endswith(instead)
        assert refused.value.hint.startswith("the job ends at ")
        assert core.row() == before
        assert not any(asked.startswith("set_time_limit") for asked in core.scheduler.asked)

    play(tmp_path, scene, FakeScheduler(now=clock.time), longest=longest, continuation=continuation)


def test_what_slurm_does_not_allow_is_told_in_its_words(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        before = await core.ready()
        with pytest.raises(RefusedError, match="Slurm refused to extend the job: Access/permission denied"):
            await core.extend.extend("alice", "dev", HOUR)
        assert core.row() == before

    play(tmp_path, scene, FakeScheduler(now=clock.time, user="alice"))


def test_without_an_answer_or_a_job_nothing_is_changed(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        scheduler = core.scheduler
        assert isinstance(scheduler, SilentScheduler)
        scheduler.silent = False
        before = await core.ready()
        scheduler.silent = True
        with pytest.raises(SlurmUnavailableError):
            await core.extend.extend("alice", "dev", HOUR)
        assert core.row() == before
        with pytest.raises(NotFoundError):
            await core.extend.extend("bob", "dev", HOUR)
        await core.sessions.stop("alice", "dev")
        with pytest.raises(ConflictError, match="dev has no running job"):
            await core.extend.extend("alice", "dev", HOUR)

    play(tmp_path, scene, SilentScheduler(now=clock.time))
