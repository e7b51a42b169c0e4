"""Clones: they begin as their source, and are kept or leave nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import ConflictError, NoSpaceError, NotFoundError, RefusedError
from broker.schema.sessions import SessionState, StartRequest
from broker.schema.volumes import CloneRequest, SnapshotRequest
from profiles.image.store import Store
from tests.fakes.core import Core, publish, site_config
from tests.fakes.launcher import RefusingLauncher
from tests.fakes.scheduler import FakeScheduler
from tests.unit.controller.sessions.session_volumes import read, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("running", [False, True])
def test_a_clone_begins_as_its_source_and_goes_its_own_way(core: Core, running: bool) -> None:
    async def scenario() -> None:
        await core.start(request=StartRequest(profile="base", options=["--mem=2G"]))
        await (core.ready() if running else core.stopped())
        write(core, "shared")
        view = await core.clones.clone("alice", "dev", CloneRequest(name="two"))
        assert (view.state, view.generation) == (SessionState.STOPPED, "0.0")
        assert view.options == ["--mem=2G"]
        volumes = core.row().view().volumes
        assert volumes is not None
        assert volumes.snapshots == 1, "what the two share"
        assert core.row().state is (SessionState.READY if running else SessionState.STOPPED)
        write(core, "of dev")
        assert read(core, name="two") == "shared"
        write(core, "of two", name="two")
        assert read(core) == "of dev"
        await core.ready("two")
        assert core.row("two").generation == "1.0"
        assert core.row("two").host_key != core.row().host_key

    asyncio.run(scenario())


def test_a_clone_is_started_when_it_is_made(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        write(core, "shared")
        await core.clones.clone("alice", "dev", CloneRequest(name="two", start=True))
        await core.settle()
        assert core.row("two").state is SessionState.QUEUED
        assert read(core, name="two") == "shared"
        prepared = [each for each in core.launcher.asked if each.startswith("prepare")]
        assert len(prepared) == 1, "of the source: a clone has all that it needs"

    asyncio.run(scenario())


def test_a_clone_at_a_snapshot_and_on_another_profile(core: Core) -> None:
    async def scenario() -> None:
        publish(Store(core.config.profiles.stores[0]), "other", content=b"other")
        await core.stopped()
        write(core, "old")
        write(core, "of base", "system")
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest(label="then"))
        write(core, "new")
        await core.clones.clone("alice", "dev", CloneRequest(name="two", at="then"))
        assert (read(core, name="two"), read(core, "system", "two")) == ("old", "of base")
        view = await core.clones.clone("alice", "dev", CloneRequest(name="three", profile="other"))
        assert (view.profile, view.version) == ("other", "1")
        assert (read(core, name="three"), read(core, "system", "three")) == ("new", "")

    asyncio.run(scenario())


def test_a_clone_that_slurm_refuses_to_start_is_kept(tmp_path: Path) -> None:
    """Unlike a session that its first start has made: it has data."""

    async def scenario() -> None:
        launcher = RefusingLauncher(FakeScheduler())
        launcher.words = ""
        core = Core.make(site_config(tmp_path), launcher)
        await core.stopped()
        await core.clones.clone("alice", "dev", CloneRequest(name="two"))
        launcher.words = "no such account"
        with pytest.raises(RefusedError):
            await core.start("two")
        assert core.row("two").state is SessionState.STOPPED
        await core.clones.clone("alice", "dev", CloneRequest(name="three", start=True))
        await core.settle()
        assert (core.row("three").state, core.row("three").reason) == (SessionState.STOPPED, "no such account")

    asyncio.run(scenario())


def test_a_clone_that_cannot_be_made_leaves_nothing(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        with pytest.raises(ConflictError, match="already"):
            await core.clones.clone("alice", "dev", CloneRequest(name="dev"))
        core.launcher.volumes.full = True
        with pytest.raises(NoSpaceError) as failure:
            await core.clones.clone("alice", "dev", CloneRequest(name="two"))
        assert "berth gc" in failure.value.hint
        assert core.registry.find("alice", "two") is None
        assert len(core.launcher.directories) == 1
        core.launcher.volumes.full = False
        assert (await core.clones.clone("alice", "dev", CloneRequest(name="two"))).name == "two"

    asyncio.run(scenario())


def test_whoever_waits_for_a_clone_hears_why_there_is_none(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await core.stopped()
        await core.clones.clone("alice", "dev", CloneRequest(name="two"))
        await core.sessions.delete("alice", "two")  # can be restored, but is not what they wait for
        await core.tick()
        monkeypatch.setattr("broker.controller.sessions.pending.ANSWER_TIMEOUT_S", 0.01)
        core.launcher.failures["clone"] = LauncherError("timed-out", "")
        view = await core.clones.clone("alice", "dev", CloneRequest(name="two"))
        assert view.state is SessionState.CHANGING
        waiting = asyncio.ensure_future(core.sessions.show("alice", "two", after=view.revision, wait=60))
        core.launcher.failures["clone"] = LauncherError("space", "Disk quota exceeded")
        core.operations._backoff.forget(view.id)
        await core.tick()
        with pytest.raises(NoSpaceError):
            await asyncio.wait_for(waiting, 20)
        with pytest.raises(NotFoundError):
            await core.sessions.show("alice", "two")

    asyncio.run(scenario())
