"""Root mode: its beginning, what is refused in it, and its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.errors import ConflictError, NoSpaceError
from broker.schema.sessions import SessionState
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import RefusingLauncher
from tests.fakes.scheduler import FakeScheduler
from tests.unit.controller.sessions.session_volumes import CHANGES, begun, end_job, wait_for_operation

if TYPE_CHECKING:
    from pathlib import Path


def test_root_mode_from_beginning_to_end(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        view = await wait_for_operation(core, core.container_changes.root("alice", "dev"))
        await core.settle()
        assert view.root
        assert "BERTH_ROOT=yes\n" in core.launcher.directories["alice", core.row().id].files["job.env"]
        with pytest.raises(ConflictError, match="root mode"):
            await core.container_changes.commit_root("alice", "dev")
        job_id = core.row().job.job_id
        assert job_id is not None
        core.scheduler.start(job_id)
        core.announce(core.row())
        await core.tick()
        assert core.row().state is SessionState.READY
        assert (await core.container_changes.root("alice", "dev")).root
        for word in ("snapshot", "rollback", "switch", "clone"):
            with pytest.raises(ConflictError, match="root mode") as failure:
                await CHANGES[word](core)
            assert "berth stop dev" in failure.value.hint
        with pytest.raises(ConflictError, match="berth stop dev"):
            await core.connect.connect("alice", "dev")
        with pytest.raises(ConflictError, match="root mode"):
            await core.start()
        assert (await core.connect.connect("alice", "dev", root=True)).host == "c1"
        view = await core.container_changes.commit_root("alice", "dev")
        assert view.operation is not None
        assert (view.state, view.operation.status, view.operation.undo) == (
            SessionState.READY,
            "done",
            "berth rollback dev 1",
        )
        end_job(core)
        await core.tick()
        assert (core.row().state, core.row().root) == (SessionState.STOPPED, False)
        assert core.launcher.volumes.read("alice", core.row().id, "system") != {}
        await core.ready()
        assert "BERTH_ROOT" not in core.launcher.directories["alice", core.row().id].files["job.env"]
        with pytest.raises(ConflictError, match="not in root mode"):
            await core.connect.connect("alice", "dev", root=True)

    asyncio.run(scenario())


def test_root_mode_of_a_stopped_session_and_one_that_slurm_refuses(tmp_path: Path) -> None:
    async def scenario() -> None:
        launcher = RefusingLauncher(FakeScheduler())
        launcher.words = ""
        core = Core.make(site_config(tmp_path), launcher)
        await core.stopped()
        launcher.words = "no"
        await core.container_changes.root("alice", "dev")
        await core.settle()
        assert (core.row().state, core.row().root) == (SessionState.STOPPED, False)
        launcher.words = ""
        assert (await core.container_changes.root("alice", "dev")).root

    asyncio.run(scenario())


@pytest.mark.parametrize("running", [False, True])
def test_root_mode_that_cannot_begin_leaves_the_session_as_it_was(core: Core, running: bool) -> None:
    async def scenario() -> None:
        await (core.ready() if running else core.stopped())
        core.launcher.volumes.full = True
        with pytest.raises(NoSpaceError):
            await wait_for_operation(core, core.container_changes.root("alice", "dev"))
        await core.settle()
        assert core.row().state is (SessionState.QUEUED if running else SessionState.STOPPED)
        assert not core.row().root

    asyncio.run(scenario())


def test_a_stop_on_the_way_to_root_mode_is_a_stop(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        await begun(core, core.container_changes.root("alice", "dev"))
        await core.sessions.stop("alice", "dev")
        for _ in range(3):
            await core.tick()
        assert (core.row().state, core.row().root) == (SessionState.STOPPED, False)
        assert core.launcher.submissions() == 1

    asyncio.run(scenario())
