"""Renamed sessions: the new name counts at once, the former host key no more, and a failure changes nothing."""

from __future__ import annotations

import asyncio
import json
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

DAY_S = 86400.0


async def stopped(tmp_path: Path, clock: Clock) -> Core:
    """A controller with the stopped session `dev`, which has run."""
    core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time)))
    session = await core.stopped()
    core.launcher.volumes.write("alice", session.id, "file", "kept")
    return core


def manifest(core: Core, session: Session) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(core.launcher.directories["alice", session.id].files["manifest.json"])
    return content


async def revoked(core: Core) -> list[str]:
    site = core.site
    return (await site.view("alice")).revoked_host_keys


def test_a_renamed_session_has_everything_under_its_new_name(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await stopped(tmp_path, clock)
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest(label="before"))
        former = core.row()
        view = await core.rename.rename("alice", "dev", "thesis")
        assert (view.name, view.id, view.state) == ("thesis", former.id, SessionState.STOPPED)
        assert view.operation is not None
        assert (view.operation.status, view.operation.message) == ("done", "renamed dev to thesis")
        assert view.operation.undo == "berth rename thesis dev"
        with pytest.raises(NotFoundError):
            await core.sessions.show("alice", "dev")
        assert [each.label for each in await core.snapshots.snapshots("alice", "thesis")] == ["before"]
        events = await core.sessions.events("alice", "thesis")
        assert ("rename", "from dev") in {(event.action, event.detail) for event in events}
        row = core.row("thesis")
        assert (manifest(core, row)["name"], manifest(core, row)["host_key"]) == ("thesis", row.host_key)
        assert (await core.start("thesis")).generation == "2.0"
        assert "BERTH_SESSION_NAME=thesis\n" in core.launcher.directories["alice", row.id].files["job.env"]

    asyncio.run(scenario())


def test_the_former_host_key_is_revoked_as_long_as_its_certificate_is_valid(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await stopped(tmp_path, clock)
        former = core.row().host_key
        clock.now += 1
        await core.rename.rename("alice", "dev", "thesis")
        assert core.row("thesis").host_key != former
        assert await revoked(core) == [former]
        await core.rename.rename("alice", "thesis", "dev")
        assert await revoked(core) == [former], "the second key has had no certificate"
        clock.now += (core.config.ssh.host_certificate_days + 1) * DAY_S
        assert await revoked(core) == []

    asyncio.run(scenario())


def test_the_host_key_of_a_restored_session_is_revoked(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await stopped(tmp_path, clock)
        former = core.row().host_key
        await core.sessions.delete("alice", "dev")
        await core.tick()
        assert await revoked(core) == [former]
        await core.deleted.restore("alice", "dev", None)
        assert core.row().host_key != former
        assert await revoked(core) == [former]

    asyncio.run(scenario())


def test_a_name_in_use_is_refused_before_anything_is_changed(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await stopped(tmp_path, clock)
        await core.stopped("other")
        before, asked = core.row(), len(core.launcher.asked)
        with pytest.raises(ConflictError, match="another session named other") as failure:
            await core.rename.rename("alice", "dev", "other")
        assert "berth list" in failure.value.hint
        with pytest.raises(ConflictError, match="has this name already"):
            await core.rename.rename("alice", "dev", "dev")
        assert (core.row(), len(core.launcher.asked)) == (before, asked)
        with pytest.raises(NotFoundError):
            await core.rename.rename("bob", "dev", "new")

    asyncio.run(scenario())


def test_a_running_session_is_not_renamed(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time)))
        await core.ready()
        before = core.row()
        with pytest.raises(ConflictError, match="dev is ready, and only a stopped session can be renamed") as failure:
            await core.rename.rename("alice", "dev", "thesis")
        assert "`berth stop dev` first" in failure.value.hint
        assert core.row() == before

    asyncio.run(scenario())


@pytest.mark.parametrize("verb", ["install", "renew"])
def test_a_failed_rename_changes_nothing(tmp_path: Path, clock: Clock, verb: str) -> None:
    async def scenario() -> None:
        core = await stopped(tmp_path, clock)
        before = core.row()
        core.launcher.failures[verb] = LauncherError("space", "Disk quota exceeded")
        with pytest.raises(NoSpaceError):
            await core.rename.rename("alice", "dev", "thesis")
        after = core.row()
        assert (after.state, after.reason, after.host_key) == (before.state, before.reason, before.host_key)
        assert core.registry.find("alice", "thesis") is None
        assert manifest(core, after)["name"] == "dev"
        core.launcher.failures.clear()
        assert (await core.start()).generation == "2.0"

    asyncio.run(scenario())


def test_after_a_failure_a_former_name_that_is_in_use_is_not_taken(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker.controller.sessions.pending, "ANSWER_TIMEOUT_S", 0.0)

    async def scenario() -> None:
        core = await stopped(tmp_path, clock)
        core.launcher.failures["renew"] = LauncherError("gone", "the launcher has left")
        await core.rename.rename("alice", "dev", "thesis")
        await core.settle()
        other = await core.start("dev")
        core.launcher.failures["renew"] = LauncherError("space", "Disk quota exceeded")
        clock.now += 100
        await core.tick()
        operation = core.row("thesis").last_operation
        assert operation is not None
        assert operation.status == "failed"
        assert operation.message.endswith("the session keeps the name thesis")
        assert core.row("thesis").state is SessionState.STOPPED
        assert core.row("dev").id == other.id

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["install", "renew"])
def test_a_controller_that_is_killed_completes_the_rename_later(
    tmp_path: Path, clock: Clock, verb: str, when: str
) -> None:
    async def scenario() -> None:
        core = await stopped(tmp_path, clock)
        former = core.row()
        core.launcher.hangs = {verb: when}
        asking = asyncio.ensure_future(core.rename.rename("alice", "dev", "thesis"))
        await core.launcher.stuck.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await core.kill()
        core.launcher.hangs.clear()
        core = Core.make(core.config, core.launcher)
        await core.tick()
        row = core.row("thesis")
        assert (row.id, row.state) == (former.id, SessionState.STOPPED)
        assert manifest(core, row)["host_key"] == row.host_key != former.host_key
        assert row.host_key == core.launcher.directories["alice", row.id].host_key
        assert await revoked(core) == [former.host_key]

    asyncio.run(scenario())
