"""A registry that is lost while a job is kept for an operation: the session continues in that job after the rebuild."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.rebuild import rebuild
from broker.schema.sessions import SessionState
from broker.schema.volumes import RollbackRequest
from tests.fakes.core import Core
from tests.unit.controller.sessions.session_volumes import SNAPSHOT, begun, read, wait_for_operation, write

if TYPE_CHECKING:
    from broker.controller.registry.models import Session


async def restarting(core: Core, until: str) -> Session:
    """The session before the restart; the controller has ended when the job was asked to `hold` or `begin`."""
    before = await core.ready()
    core.launcher.hangs[until] = "after"
    await begun(core, core.container_changes.restart("alice", "dev"))
    await stuck(core)
    await core.kill()
    return before


async def stuck(core: Core) -> None:
    while not core.launcher.stuck.is_set():
        await core.reconciler.tick()
        await asyncio.sleep(0.001)
    core.launcher.hangs.clear()


async def rebuilt(core: Core, *, from_copy: bytes = b"") -> Core:
    """Another controller, with a registry that was empty or an old copy before it was rebuilt."""
    for file in core.config.state_dir.glob("registry.db*"):
        file.unlink()
    if from_copy:
        (core.config.state_dir / "registry.db").write_bytes(from_copy)
    again = Core.make(core.config, core.launcher)
    await rebuild(again.config, again.registry, again.scheduler, again.launcher)
    return again


async def is_ready_again(core: Core, before: Session) -> None:
    for _ in range(4):
        await core.tick()
        assert core.row().state is not SessionState.READY, "the endpoint of the former run"
    session = core.row()
    assert session.submission > before.submission
    assert (session.job.job_id, session.held_job_id) == (before.job.job_id, None)
    core.announce(session, port=20002)
    await core.tick()
    assert (core.row().state, core.row().job.port) == (SessionState.READY, 20002)
    assert core.launcher.submissions() == 1
    assert [words for words in core.scheduler.asked if words.startswith("cancel ")] == []
    await core.kill()


@pytest.mark.parametrize("until", ["hold", "begin"])
def test_the_session_is_ready_again_in_its_job(core: Core, until: str) -> None:
    async def scenario() -> None:
        before = await restarting(core, until)
        await is_ready_again(await rebuilt(core), before)

    asyncio.run(scenario())


def test_a_session_that_did_not_become_ready_is_started_once_more(core: Core) -> None:
    async def scenario() -> None:
        before = await core.ready()
        await wait_for_operation(core, core.container_changes.restart("alice", "dev"))
        for _ in range(2):
            await core.tick()
        core.fail_to_start(core.row())
        await core.kill()
        await is_ready_again(await rebuilt(core), before)

    asyncio.run(scenario())


@pytest.mark.parametrize("until", ["hold", "begin"])
def test_an_old_registry_learns_it_too(core: Core, until: str) -> None:
    async def scenario() -> None:
        await core.stopped()
        core.registry.close()
        copy = (core.config.state_dir / "registry.db").read_bytes()
        again = Core.make(core.config, core.launcher)
        await again.ready()
        again.launcher.hangs[until] = "after"
        await begun(again, again.container_changes.restart("alice", "dev"))
        before = again.row()
        await stuck(again)
        await again.kill()
        old = await rebuilt(core, from_copy=copy)
        for _ in range(4):
            await old.tick()
        session = old.row()
        assert (session.job.job_id, session.held_job_id) == (2, None)
        assert session.submission > before.submission
        old.announce(session)
        await old.tick()
        assert old.row().state is SessionState.READY
        await old.kill()

    asyncio.run(scenario())


def test_a_rollback_goes_on_in_the_job(core: Core) -> None:
    async def scenario() -> None:
        before = await core.ready()
        write(core, "old")
        await wait_for_operation(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))
        write(core, "new")
        core.launcher.hangs["rollback"] = "after"
        await begun(core, core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")))
        await stuck(core)
        await core.kill()
        again = await rebuilt(core)
        assert again.row().state is SessionState.CHANGING
        await is_ready_again(again, before)
        again = Core.make(core.config, core.launcher)
        assert read(again) == "old"
        await again.kill()

    asyncio.run(scenario())


@pytest.mark.parametrize("until", ["hold", "begin"])
def test_a_rebuild_of_a_whole_registry_changes_nothing(core: Core, until: str) -> None:
    async def scenario() -> None:
        await restarting(core, until)
        again = Core.make(core.config, core.launcher)
        before = again.row()
        await rebuild(again.config, again.registry, again.scheduler, again.launcher)
        assert again.row() == before
        await again.kill()

    asyncio.run(scenario())
