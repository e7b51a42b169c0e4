"""The job that waits for the end of the present one, when either is refused, cancelled, requeued, lost or unknown."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.rebuild import rebuild
from broker.controller.registry.database import open_registry
from broker.schema.sessions import SessionState
from broker.schema.volumes import SnapshotRequest
from slurm.state import JobState
from tests.fakes.core import Clock, Core
from tests.fakes.launcher import MumblingLauncher
from tests.unit.controller.reconcile.successors import HOUR, actions, end, play, start, with_successor

if TYPE_CHECKING:
    from pathlib import Path


def test_job_that_waits_takes_over_from_a_requeued_one(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await with_successor(core, clock)
        assert session.job.job_id is not None
        core.scheduler.requeue(session.job.job_id)
        await core.tick()
        await core.tick()
        now = core.row()
        assert (now.state, now.job.job_id) == (SessionState.QUEUED, session.next_job_id)
        assert list(core.live_jobs(now)) == [session.next_job_id]
        first = (await core.sessions.jobs("alice", "dev"))[-1]
        assert first.outcome == "REQUEUED"

    play(tmp_path, clock, scene)


def test_a_requeued_job_is_told_once_to_start_at_once(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        for turn in (1, 2):
            core.scheduler.requeue(session.job.job_id)
            await core.tick()
            core.scheduler.change(session.job.job_id, reason="BeginTime")
            await core.tick()
            assert core.scheduler.asked.count(f"start_now {session.job.job_id}") == turn
            start(core, session.job.job_id)
            core.announce(core.row())
            await core.tick()
            assert core.row().generation == f"1.{turn}"

    play(tmp_path, clock, scene)


def test_a_refused_successor_is_told_and_asked_for_once(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        clock.now += HOUR - 300
        core.launcher.failures["submit"] = LauncherError("refused", "QOSMaxSubmitJobPerUserLimit")
        for _ in range(3):
            await core.tick()
            clock.now += 60
        session = core.row()
        assert (session.state, session.successor) == (SessionState.READY, 0)
        assert core.launcher.submissions() == 2
        assert ("refused", "the successor: QOSMaxSubmitJobPerUserLimit") in await actions(core)
        del core.launcher.failures["submit"]
        end(core, session)
        await core.tick()
        assert (core.row().state, core.row().submission) == (SessionState.QUEUED, 3)

    play(tmp_path, clock, scene)


@pytest.mark.parametrize("queues", [True, False])
def test_an_unclear_answer_is_made_up_for(tmp_path: Path, clock: Clock, queues: bool) -> None:
    async def scene(core: Core) -> None:
        launcher = core.launcher
        assert isinstance(launcher, MumblingLauncher)
        launcher.unclear = False
        await core.ready()
        launcher.unclear, launcher.queues = True, queues
        clock.now += HOUR - 500
        await core.tick()
        assert core.row().next_job_id is None
        launcher.unclear = False
        await core.tick()
        clock.now += 100
        await core.tick()
        await core.tick()
        session = core.row()
        assert session.next_job_id is not None
        assert len(core.live_jobs(session)) == 2
        assert launcher.submissions() == (2 if queues else 3)
        end(core, session)
        await core.tick()
        assert core.row().job.job_id == session.next_job_id

    play(tmp_path, clock, scene, MumblingLauncher)


def test_a_cancelled_successor_is_not_asked_for_again(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await with_successor(core, clock)
        assert session.next_job_id is not None
        core.scheduler.end(session.next_job_id, JobState.CANCELLED)
        await core.tick()
        await core.tick()
        assert (core.row().state, core.row().successor) == (SessionState.READY, 0)
        assert core.launcher.submissions() == 2

    play(tmp_path, clock, scene)


def test_a_successor_that_has_ended_does_not_carry_on(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await with_successor(core, clock)
        assert session.next_job_id is not None
        core.scheduler.end(session.next_job_id, JobState.CANCELLED)
        end(core, session)
        await core.tick()
        now = core.row()
        assert (now.state, now.submission) == (SessionState.QUEUED, 3)
        assert now.job.job_id not in {session.job.job_id, session.next_job_id}

    play(tmp_path, clock, scene)


def test_a_lost_job_is_followed_by_the_one_that_waits_only(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await with_successor(core, clock)
        assert session.job.job_id is not None
        core.scheduler._accounting.clear()
        core.scheduler.forget(session.job.job_id)
        await core.tick()
        assert core.row().state is SessionState.READY
        clock.now += 400
        await core.tick()
        session = core.row()
        assert (session.state, session.submission) == (SessionState.QUEUED, 2)
        assert session.job.job_id is not None
        start(core, session.job.job_id)
        core.announce(session)
        await core.tick()
        core.scheduler.forget(session.job.job_id)
        await core.tick()
        clock.now += 400
        await core.tick()
        assert (core.row().state, core.row().job.outcome) == (SessionState.FAILED, "LOST")

    play(tmp_path, clock, scene)


def test_what_waits_for_the_end_comes_first_and_the_session_goes_on_after_it(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await with_successor(core, clock)
        core.launcher.hangs["copy"] = "before"
        asked = asyncio.create_task(core.snapshots.snapshot("alice", "dev", SnapshotRequest()))
        await core.launcher.stuck.wait()
        end(core, session)
        await core.reconciler.tick()
        assert core.row().state is SessionState.CHANGING
        await core.kill()
        asked.cancel()
        core.launcher.hangs.clear()
        core = Core.make(core.config, core.launcher)
        await core.tick()
        await core.tick()
        session = core.row()
        assert (session.state, session.submission) == (SessionState.QUEUED, 3)
        assert list(core.live_jobs(session)) == [session.job.job_id]
        assert session.last_operation is not None
        assert session.last_operation.status == "done"

    play(tmp_path, clock, scene)


def test_a_new_controller_and_a_rebuilt_registry_know_the_successor(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        before = await with_successor(core, clock)
        await core.kill()
        core = Core.make(core.config, core.launcher)
        await core.tick()
        assert core.row().next_job_id == before.next_job_id
        await core.kill()
        (core.config.state_dir / "registry.db").unlink()
        registry = open_registry(core.config.registry_url)
        registry.close()
        core = Core.make(core.config, core.launcher)
        await rebuild(core.config, core.registry, core.scheduler, core.launcher)
        await core.tick()
        session = core.row()
        assert (session.state, session.job.job_id) == (SessionState.READY, before.job.job_id)
        assert (session.submission, session.successor, session.next_job_id) == (1, 2, before.next_job_id)
        assert len(core.live_jobs(session)) == 2
        end(core, session)
        await core.tick()
        assert core.row().job.job_id == before.next_job_id

    play(tmp_path, clock, scene)
