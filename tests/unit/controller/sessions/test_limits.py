"""The limits of one user: a request above one is refused in words, and changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.sessions.limits import USAGE_TTL_S
from broker.errors import RefusedError
from broker.schema.sessions import SessionState, StartRequest
from broker.schema.volumes import CloneRequest
from slurm.state import JobState
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.core import BASE, Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

GPU = StartRequest(profile="base", options=["--gres=gpu:intel:1"])


def play(place: Path, clock: Clock, scene: Callable[[Core], Awaitable[None]], **limits: Any) -> None:  # noqa: ANN401
    async def whole() -> None:
        config = site_config(place, limits=limits)
        async with asyncio.timeout(TEST_DEADLINE_S):
            await scene(Core.make(config, FakeLauncher(FakeScheduler(now=clock.time))))

    asyncio.run(whole())


def test_one_session_too_many_is_refused_however_it_is_made(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.stopped("one")
        await core.stopped("two")
        for asked in (core.start("three"), core.clones.clone("alice", "one", CloneRequest(name="three"))):
            with pytest.raises(RefusedError, match=r"session limit reached \(2 of 2\)") as refused:
                await asked
            assert "`berth delete NAME` removes one" in refused.value.hint
        assert core.registry.find("alice", "three") is None
        await core.start("three", "bob")
        await core.start("one", request=StartRequest())
        await core.sessions.delete("alice", "two")
        await core.tick()
        await core.start("three")
        with pytest.raises(RefusedError, match=r"session limit reached \(2 of 2\)"):
            await core.deleted.restore("alice", "two", None)

    play(tmp_path, clock, scene, sessions=2)


def test_of_many_at_once_as_many_are_made_as_may_be(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        starts = [core.start(f"s{number}", request=GPU) for number in range(8)]
        ends = await asyncio.gather(*starts, return_exceptions=True)
        assert sum(isinstance(each, RefusedError) for each in ends) == 5
        assert len(core.registry.sessions_of("alice")) == 3
        assert core.launcher.submissions() == 3

    play(tmp_path, clock, scene, gpu_sessions=3)


def test_gpus_are_counted_while_somebody_has_them_or_waits_for_them(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.start("one", request=GPU)
        with pytest.raises(RefusedError, match=r"limit of sessions with a GPU reached \(1 of 1\): one") as refused:
            await core.start("two", request=GPU)
        assert "`berth stop one` frees one" in refused.value.hint
        await core.start("two", request=BASE)
        await core.start("shard", request=StartRequest(profile="base", options=["--gres=shard:1"]))
        job_id = core.row("one").job.job_id
        assert job_id is not None
        core.scheduler.end(job_id, JobState.CANCELLED)
        await core.tick()
        await core.start("three", request=GPU)
        with pytest.raises(RefusedError, match=r"with a GPU reached \(1 of 1\): three"):
            await core.start("one", request=StartRequest())
        assert core.row("one").state is SessionState.STOPPED

    play(tmp_path, clock, scene, gpu_sessions=1)


def test_starts_are_counted_for_an_hour(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.start("one")
        await core.start("one", request=StartRequest())
        await core.start("two")
        with pytest.raises(RefusedError, match=r"limit of starts within an hour reached \(2 of 2\)"):
            await core.start("three")
        clock.now += 3700
        await core.start("three")

    play(tmp_path, clock, scene, starts_per_hour=2)


def test_too_much_on_disk_is_refused_until_there_is_room(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.stopped("one")
        layer = session.volumes
        assert layer is not None
        top = core.launcher.volumes.layers["alice"]
        await core.start("bobs", "bob")
        clock.now += USAGE_TTL_S + 1
        top[next(iter(top))]["file"] = "x" * 5000
        starts = core.start("two"), core.start("one", request=StartRequest())
        for asked in (*starts, core.clones.clone("alice", "one", CloneRequest(name="two"))):
            with pytest.raises(RefusedError, match=r"your sessions take 4\.9 KiB of 3\.9 KiB"):
                await asked
        assert core.registry.find("alice", "two") is None
        assert core.row("one").state is SessionState.STOPPED
        await core.start("more", "bob")
        del top[next(iter(top))]["file"]
        await core.start("one", request=StartRequest())  # measured again at once

    play(tmp_path, clock, scene, storage=4000)


def test_it_is_measured_seldom_and_who_cannot_be_measured_may_go_on(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        for number in range(3):
            await core.start(f"s{number}")
        assert core.launcher.asked.count("usage alice") == 1
        clock.now += USAGE_TTL_S + 1
        core.launcher.failures["usage"] = LauncherError("timeout", "no answer")
        await core.start("another")
        assert core.launcher.asked.count("usage alice") == 2

    play(tmp_path, clock, scene, storage="1GiB")
