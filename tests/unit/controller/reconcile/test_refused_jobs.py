"""A refused job that slurmctld keeps is no job of the session, whenever a tick sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.submission import REFUSED
from broker.errors import RefusedError
from broker.schema.sessions import SessionState
from tests.fakes.core import Clock, Core, site_config, start_until_sbatch
from tests.fakes.launcher import SlowLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("is_new", [True, False])
def test_refused_job_that_slurm_still_shows_is_nobodys_job(tmp_path: Path, *, is_new: bool) -> None:
    """slurmctld keeps a failed job of what it refuses. A tick sees that before sbatch's answer is recorded."""

    async def scenario() -> None:
        launcher = SlowLauncher(FakeScheduler())
        core = Core.make(site_config(tmp_path), launcher)
        if not is_new:
            launcher.let_go.set()
            await core.stopped()
            launcher.let_go.clear()
        launcher.reached.clear()
        starting = asyncio.create_task(core.start())
        await launcher.reached.wait()
        session = core.row()
        core.scheduler.refuse(f"berth-{session.id}", comment=f"berth:{session.id}:{session.submission}")
        await core.reconciler.tick()
        assert (core.row().state, core.row().job.job_id) == (SessionState.SUBMITTING, None)
        launcher.then = LauncherError("refused", "Requested node configuration is not available")
        launcher.let_go.set()
        with pytest.raises(RefusedError, match="Requested node configuration"):
            await starting
        await core.tick()
        if is_new:
            assert core.registry.find("alice", "dev") is None
        else:
            assert (core.row().state, core.row().job.outcome) == (SessionState.STOPPED, REFUSED)
            assert core.row().reason == "Requested node configuration is not available"

    asyncio.run(scenario())


def test_refusal_that_a_killed_controller_did_not_record_is_asked_for_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        core, launcher, starting = await start_until_sbatch(site_config(tmp_path))
        session = core.row()
        core.scheduler.refuse(f"berth-{session.id}", comment=f"berth:{session.id}:1")
        starting.cancel()
        await core.kill()
        launcher.then = LauncherError("refused", "Requested node configuration is not available")
        launcher.let_go.set()
        time_now = Clock()
        with pytest.MonkeyPatch.context() as patch:
            time_now.install(patch)
            time_now.now += 3600
            again = Core.make(site_config(tmp_path), launcher)
            await again.tick()
            assert again.registry.find("alice", "dev") is None, "a new session that is refused leaves nothing behind"

    asyncio.run(scenario())
