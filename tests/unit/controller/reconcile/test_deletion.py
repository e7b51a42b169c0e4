"""Deleted sessions: set aside at once, brought back within the grace time, removed for good after it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import broker.controller.sessions.pending
from broker.controller.launcher_client.errors import LauncherError
from broker.errors import ConflictError, NoSpaceError, NotFoundError
from broker.schema.sessions import SessionState
from broker.schema.volumes import SnapshotRequest
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from pathlib import Path

    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import Transition
    from broker.launcher.argument_types import Arguments

GRACE = 7 * 86400.0


async def deleted(tmp_path: Path, clock: Clock) -> Core:
    """A session `dev` with a file, deleted."""
    core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time)))
    session = await core.stopped()
    core.launcher.volumes.write("alice", session.id, "file", "kept")
    await core.sessions.delete("alice", "dev")
    await core.tick()
    return core


def test_a_deleted_session_comes_back_with_everything(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await deleted(tmp_path, clock)
        assert core.registry.find("alice", "dev") is None
        assert core.launcher.directories == {}
        (view,) = await core.deleted.all("alice")
        assert (view.name, view.state, view.kept_until) == ("dev", SessionState.DELETED, clock.now + GRACE)
        view = await core.deleted.restore("alice", "dev", None)
        assert (view.state, view.kept_until) == (SessionState.STOPPED, None)
        assert view.operation is not None
        assert (view.operation.verb, view.operation.status) == ("restore", "done")
        assert core.launcher.volumes.read("alice", view.id) == {"file": "kept"}
        assert await core.deleted.all("alice") == []
        assert (await core.start()).generation == "2.0"

    asyncio.run(scenario())


def test_a_name_that_is_taken_and_another_one(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await deleted(tmp_path, clock)
        await core.stopped()
        with pytest.raises(ConflictError, match="another session named dev") as failure:
            await core.deleted.restore("alice", "dev", None)
        assert "--as" in failure.value.hint
        assert (await core.deleted.restore("alice", "dev", "old")).name == "old"
        files = core.launcher.directories["alice", core.row("old").id].files
        assert '"name": "old"' in files["manifest.json"]

    asyncio.run(scenario())


def test_of_several_of_a_name_the_one_deleted_last_comes_back(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await deleted(tmp_path, clock)
        clock.now += 10
        second = await core.stopped()
        await core.sessions.delete("alice", "dev")
        await core.tick()
        assert [view.id == second.id for view in await core.deleted.all("alice")] == [False, True]
        assert (await core.deleted.restore("alice", "dev", None)).id == second.id

    asyncio.run(scenario())


def test_after_the_grace_time_nothing_is_left(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await deleted(tmp_path, clock)
        clock.now += GRACE - 1
        await core.tick()
        assert core.launcher.volumes.trash
        assert core.launcher.volumes.layers["alice"]
        clock.now += 2
        with pytest.raises(NotFoundError, match="no deleted session named dev"):
            await core.deleted.restore("alice", "dev", None)
        await core.tick()
        assert core.launcher.volumes.trash == {}
        assert core.launcher.volumes.layers["alice"] == {}
        assert core.registry.kept_deleted() == []

    asyncio.run(scenario())


@pytest.mark.parametrize("grace", [0.0, GRACE])
def test_a_purge_keeps_nothing(tmp_path: Path, clock: Clock, grace: float) -> None:
    async def scenario() -> None:
        storage = {"root": "/s/{user}", "deleted_grace": grace}
        core = Core.make(site_config(tmp_path, storage=storage), FakeLauncher(FakeScheduler(now=clock.time)))
        session = await core.stopped()
        core.launcher.volumes.write("alice", session.id, "file", "gone")
        await core.sessions.delete("alice", "dev", purge=bool(grace))
        await core.tick()
        assert core.launcher.volumes.layers["alice"] == {}
        assert core.launcher.volumes.trash == {}
        assert await core.deleted.all("alice") == []

    asyncio.run(scenario())


def test_nobody_brings_back_what_is_not_theirs(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await deleted(tmp_path, clock)
        assert await core.deleted.all("bob") == []
        with pytest.raises(NotFoundError):
            await core.deleted.restore("bob", "dev", None)
        report = await core.deleted.gc("bob", dry_run=False)
        assert (report.layers, report.sessions) == (0, [])
        assert core.launcher.volumes.trash

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["trash", "untrash", "purge"])
def test_a_controller_killed_in_the_middle_is_taken_up(tmp_path: Path, clock: Clock, verb: str, when: str) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time)))
        session = await core.stopped()
        core.launcher.volumes.write("alice", session.id, "file", "kept")
        if verb != "trash":
            await core.sessions.delete("alice", "dev")
            await core.tick()
        core.launcher.hangs = {verb: when}
        if verb == "trash":
            await core.sessions.delete("alice", "dev")
        elif verb == "untrash":
            asking = asyncio.ensure_future(core.deleted.restore("alice", "dev", None))
        else:
            clock.now += GRACE + 1
        await core.reconciler.tick()
        await core.launcher.stuck.wait()
        if verb == "untrash":
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await core.kill()
        core.launcher.hangs.clear()
        core = Core.make(core.config, core.launcher)
        await core.tick()
        if verb == "purge":
            assert core.launcher.volumes.layers["alice"] == {}
            return
        if verb == "trash":
            assert [view.name for view in await core.deleted.all("alice")] == ["dev"]
            await core.deleted.restore("alice", "dev", None)
        assert core.row().state is SessionState.STOPPED
        assert core.launcher.volumes.read("alice", session.id) == {"file": "kept"}

    asyncio.run(scenario())


def test_a_restore_that_fails_leaves_it_deleted_and_restorable(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await deleted(tmp_path, clock)
        core.launcher.failures["untrash"] = LauncherError("space", "Disk quota exceeded")
        with pytest.raises(NoSpaceError):
            await core.deleted.restore("alice", "dev", "other")
        assert core.registry.find("alice", "other") is None
        assert [view.name for view in await core.deleted.all("alice")] == ["dev"]
        core.launcher.failures.clear()
        assert (await core.deleted.restore("alice", "dev", None)).state is SessionState.STOPPED

    asyncio.run(scenario())


def test_a_restore_that_fails_after_its_answer_leaves_it_deleted_too(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the core machine: a user whose restore was accepted has a deleted session again."""
    monkeypatch.setattr(broker.controller.sessions.pending, "ANSWER_TIMEOUT_S", 0.0)

    async def scenario() -> None:
        core = await deleted(tmp_path, clock)
        answered, really = asyncio.Event(), core.launcher._call

        async def fails_after_the_answer(user: str, arguments: Arguments) -> dict[str, Any]:
            if arguments.VERB != "untrash":
                return await really(user, arguments)
            await answered.wait()
            raise LauncherError("space", "Disk quota exceeded")

        core.launcher._call = fails_after_the_answer  # type: ignore[method-assign] # until the answer is there
        view = await core.deleted.restore("alice", "dev", "other")
        assert view.state is SessionState.CHANGING
        answered.set()
        await core.settle()
        assert core.registry.find("alice", "other") is None
        (view,) = await core.deleted.all("alice")
        assert (view.name, view.state, view.kept_until) == ("dev", SessionState.DELETED, clock.now + GRACE)
        core.launcher._call = really  # type: ignore[method-assign]
        await core.deleted.restore("alice", "dev", None)
        await core.settle()
        assert core.row().state is SessionState.STOPPED

    asyncio.run(scenario())


def test_gc_says_what_it_would_remove_and_then_removes_it(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await deleted(tmp_path, clock)
        assert (await core.deleted.gc("alice", dry_run=True)).layers == 0, "what may be restored is named"
        session = await core.stopped()
        core.launcher.volumes.write("alice", session.id, "file", "12345")
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
        core.launcher.volumes.records["alice", session.id].layers["home"] = []
        core.launcher.volumes.records["alice", session.id].snapshots = []
        report = await core.deleted.gc("alice", dry_run=True)
        assert (report.layers, report.bytes, report.dry_run) == (1, 5, True)
        assert (await core.deleted.gc("alice", dry_run=False)).layers == 1
        assert (await core.deleted.gc("alice", dry_run=False)).layers == 0
        assert [view.name for view in await core.deleted.all("alice")] == ["dev"]

    asyncio.run(scenario())


def test_a_request_does_not_wait_for_the_end_of_the_attempt_before(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure of the first one is recorded, and so answered, before its attempt has ended."""

    async def scenario() -> None:
        core = await deleted(tmp_path, clock)
        released = asyncio.Event()
        registry = core.operations._registry

        async def update(session_id: str, decide: Transition) -> Session:
            session = await registry.update(session_id, decide)
            await released.wait()
            return session

        slow = SimpleNamespace(require=registry.require, update=update)
        core.launcher.failures["untrash"] = LauncherError("space", "Disk quota exceeded")
        with monkeypatch.context() as patch:
            patch.setattr(core.operations, "_registry", slow)
            with pytest.raises(NoSpaceError):
                await core.deleted.restore("alice", "dev", "other")
        core.launcher.failures.clear()
        assert (await core.deleted.restore("alice", "dev", None)).state is SessionState.STOPPED
        released.set()
        await core.settle()

    asyncio.run(scenario())


@pytest.mark.parametrize("restored", [False, True])
def test_a_second_look_at_a_session_whose_deletion_has_ended_changes_nothing(
    tmp_path: Path, clock: Clock, restored: bool
) -> None:
    """A tick may have read the row before the deletion ended: the kept data is neither removed nor set aside again."""

    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time)))
        await core.stopped()
        await core.sessions.delete("alice", "dev")
        read = core.row()
        await core.tick()
        if restored:
            await core.deleted.restore("alice", "dev", None)
        before = [view.name for view in await core.deleted.all("alice")]
        await core.deletion.resume([read.model_copy(update={"state": SessionState.DELETING})])
        await core.settle()
        assert [view.name for view in await core.deleted.all("alice")] == before == ([] if restored else ["dev"])
        assert (core.registry.find("alice", "dev") is not None) is restored
        assert (("alice", read.id) in core.launcher.directories) is restored

    asyncio.run(scenario())
