"""Requests for a session's volumes: of whom and when they are refused, and what is asked meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import ConflictError, NoSpaceError, NotFoundError
from broker.schema.sessions import SessionState, StartRequest
from broker.schema.volumes import CloneRequest, RollbackRequest, SwitchRequest
from tests.unit.controller.sessions.session_volumes import CHANGES, SNAPSHOT, begun, put

if TYPE_CHECKING:
    from tests.fakes.core import Core


@pytest.mark.parametrize("purge", [False, True])
def test_whoever_waits_for_a_deletion_is_told_of_no_earlier_failure(core: Core, purge: bool) -> None:
    async def scenario() -> None:
        await core.stopped()
        core.launcher.failures["snapshot"] = LauncherError("space", "Disk quota exceeded")
        with pytest.raises(NoSpaceError):
            await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
        view = await core.sessions.delete("alice", "dev", purge=purge)
        await core.tick()
        with pytest.raises(NotFoundError):
            await core.sessions.show("alice", "dev", after=view.revision, wait=1)

    asyncio.run(scenario())


@pytest.mark.parametrize("word", CHANGES)
def test_one_operation_at_a_time(core: Core, word: str) -> None:
    async def scenario() -> None:
        await core.stopped()
        core.launcher.failures["snapshot"] = LauncherError("timed-out", "")
        await begun(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))
        before = core.row()
        with pytest.raises(ConflictError, match="snapshot of dev is in progress"):
            await CHANGES[word](core)
        assert core.row().operation == before.operation

    asyncio.run(scenario())


def test_another_user_has_no_such_session(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        ask = core.snapshots
        for call in (
            ask.snapshot("bob", "dev", SNAPSHOT),
            ask.snapshots("bob", "dev"),
            ask.delete_snapshot("bob", "dev", "1"),
            ask.rollback("bob", "dev", RollbackRequest(snapshot="1")),
            core.container_changes.switch("bob", "dev", SwitchRequest(profile="base")),
            core.clones.clone("bob", "dev", CloneRequest(name="mine", at="1")),
            ask.diff("bob", "dev", None),
            ask.size("bob", "dev"),
            ask.verify("bob", "dev"),
            ask.flatten("bob", "dev"),
            core.container_changes.root("bob", "dev"),
            core.container_changes.commit_root("bob", "dev"),
        ):
            with pytest.raises(NotFoundError, match="no session named dev"):
                await call
        assert not [words for words in core.launcher.asked if " bob" in words]

    asyncio.run(scenario())


@pytest.mark.parametrize("state", [SessionState.DELETING, SessionState.CHANGING])
def test_what_is_not_there_to_be_changed_is_not(core: Core, state: SessionState) -> None:
    put(core, state)

    async def scenario() -> None:
        core.launcher.volumes._now("alice", core.row().image, core.launcher.volumes.records["alice", core.row().id])
        for word in CHANGES.keys() - {"delete", "clone"}:
            with pytest.raises(ConflictError):
                await CHANGES[word](core)

    asyncio.run(scenario())


@pytest.mark.parametrize(("asked", "ends"), [("start", "queued"), ("stop", "stopped")])
def test_start_and_stop_while_it_is_being_changed(core: Core, asked: str, ends: str) -> None:
    """They say what the session is to be afterwards."""

    async def scenario() -> None:
        await (core.stopped() if asked == "start" else core.ready())
        await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
        core.launcher.failures["rollback"] = LauncherError("timed-out", "")
        await begun(core, core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")))
        for _ in range(3):
            await core.tick()
        assert core.row().state is SessionState.CHANGING
        if asked == "start":
            view = await core.start(request=StartRequest(options=["--mem=4G"]))
        else:
            view = await core.sessions.stop("alice", "dev")
        assert view.state is SessionState.CHANGING
        core.launcher.failures.clear()
        core.operations._backoff.forget(core.row().id)
        await core.tick()
        assert core.row().state.value == ends
        if asked == "start":
            assert core.row().options == ["--mem=4G"]

    asyncio.run(scenario())
