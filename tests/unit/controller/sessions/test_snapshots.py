"""Snapshots and rollback in every state: the effects on session, data and image."""

from __future__ import annotations

import asyncio

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import BerthError, ConflictError, NotFoundError, RefusedError
from broker.schema.sessions import LIVE, SessionState, StartRequest
from broker.schema.volumes import CloneRequest, RollbackRequest, SnapshotRequest, SwitchRequest
from profiles.image.store import Store
from slurm.state import JobState
from tests.fakes.core import Clock, Core, publish
from tests.unit.controller.sessions.session_volumes import (
    SNAPSHOT,
    begun,
    end_job,
    put,
    read,
    wait_for_operation,
    write,
)


def test_a_snapshot_of_a_stopped_session_and_the_way_back(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        write(core, "old")
        view = await core.snapshots.snapshot("alice", "dev", SnapshotRequest(label="good"))
        assert view.state is SessionState.STOPPED
        assert view.operation is not None
        assert (view.operation.verb, view.operation.status, view.operation.snapshot) == ("snapshot", "done", 1)
        assert view.volumes is not None
        assert view.volumes.snapshots == 1
        write(core, "new")
        view = await core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="good"))
        assert view.operation is not None
        assert (view.state, view.operation.status) == (SessionState.STOPPED, "done")
        assert view.operation.undo == "berth rollback dev 2"
        assert read(core) == "old"
        before = (await core.snapshots.snapshots("alice", "dev"))[1]
        assert (before.number, before.automatic, before.consistency) == (2, True, "stopped")
        await core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="2"))
        assert read(core) == "new"

    asyncio.run(scenario())


def test_a_snapshot_of_a_running_session_leaves_it_running(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        write(core, "old")
        view = await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
        assert (view.state, view.job_id) == (SessionState.READY, 1)
        assert view.operation is not None
        assert view.operation.status == "done"
        write(core, "new")
        assert (await core.snapshots.snapshots("alice", "dev"))[0].consistency == "frozen"
        assert core.launcher.volumes.read_snapshot("alice", core.row().id, 1) == {"file": "old"}

    asyncio.run(scenario())


def test_a_rollback_of_a_running_session_stops_it_and_starts_it_again_as_it_was(core: Core) -> None:
    async def scenario() -> None:
        await core.start(request=StartRequest(profile="base", options=["--mem=3G"]))
        await core.ready()
        write(core, "old")
        await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
        write(core, "new")
        view = await wait_for_operation(core, core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")))
        await core.tick()
        assert view.operation is not None
        assert view.operation.status == "done"
        assert core.row().generation == "2.0"
        assert core.row().state in {SessionState.QUEUED, SessionState.STARTING}, "the job that ran before waits for it"
        assert core.row().options == ["--mem=3G"]
        assert read(core) == "old"
        assert len(core.live_jobs(core.row())) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("state", sorted(LIVE - {SessionState.READY}))
def test_what_a_session_on_its_way_can_be_asked_for(core: Core, state: SessionState) -> None:
    """No job can copy it yet; a rollback ends its job in any state."""
    put(core, state, job_id=7)
    stopping = state is SessionState.STOPPING

    async def scenario() -> None:
        core.launcher.volumes._now("alice", core.row().image, core.launcher.volumes.records["alice", core.row().id])
        if stopping:
            operation = (await begun(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))).operation
        else:
            with pytest.raises(ConflictError, match=state.value):
                await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
            view = await begun(core, core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")))
            assert view.state is SessionState.STOPPING
            operation = view.operation
        assert operation is not None
        intent = core.row().pending
        assert intent is not None
        assert intent.start is not stopping

    asyncio.run(scenario())


def test_a_failed_session_can_be_kept_and_is_failed_again(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        end_job(core, JobState.OUT_OF_MEMORY)
        await core.tick()
        reason = core.row().reason
        view = await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
        assert (view.state, view.reason) == (SessionState.FAILED, reason)
        view = await core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1"))
        assert (view.state, view.reason) == (SessionState.STOPPED, "")

    asyncio.run(scenario())


def test_a_session_that_ends_while_it_is_copied_is_kept_as_it_has_ended(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock().install(monkeypatch)  # the pause before the next attempt passes only when the test says so

    async def scenario() -> None:
        await core.ready()
        write(core, "last words")
        core.launcher.failures["copy"] = LauncherError("timed-out", "")
        await begun(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))
        core.operations.resume([core.row()])  # the request may have been cancelled before its first attempt
        await core.settle()
        end_job(core, JobState.FAILED)
        await core.tick()
        assert core.row().state is SessionState.CHANGING
        core.operations._backoff.forget(core.row().id)
        await core.tick()
        assert core.row().state is SessionState.FAILED
        assert (await core.snapshots.snapshots("alice", "dev"))[0].consistency == "stopped"

    asyncio.run(scenario())


def test_a_job_that_slurm_requeues_ends_its_copy_with_words(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock().install(monkeypatch)  # the pause before the next attempt passes only when the test says so

    async def scenario() -> None:
        await core.ready()
        core.launcher.failures["copy"] = LauncherError("timed-out", "")
        await begun(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))
        await core.settle()
        core.scheduler.requeue(1)
        await core.tick()
        core.operations._backoff.forget(core.row().id)
        await core.tick()
        operation = core.row().view().operation
        assert operation is not None
        assert (operation.status, operation.reason) == ("failed", "conflict")
        assert "Slurm restarted the job" in operation.message
        assert core.row().state is SessionState.QUEUED

    asyncio.run(scenario())


def test_a_label_names_one_snapshot_and_an_unknown_one_none(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest(label="good"))
        with pytest.raises(ConflictError, match="good"):
            await core.snapshots.snapshot("alice", "dev", SnapshotRequest(label="good"))
        for reference in ("2", "bad"):
            for call in (
                core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot=reference)),
                core.snapshots.delete_snapshot("alice", "dev", reference),
                core.clones.clone("alice", "dev", CloneRequest(name="two", at=reference)),
                core.snapshots.diff("alice", "dev", reference),
            ):
                with pytest.raises(NotFoundError, match=reference):
                    await call
        assert (await core.snapshots.delete_snapshot("alice", "dev", "good")).number == 1
        assert await core.snapshots.snapshots("alice", "dev") == []
        volumes = core.row().view().volumes
        assert volumes is not None
        assert volumes.snapshots == 0

    asyncio.run(scenario())


def test_a_snapshot_whose_image_is_gone_or_another_is_refused_before_anything_is_touched(core: Core) -> None:
    async def scenario() -> None:
        store = Store(core.config.profiles.stores[0])
        publish(store, "other", content=b"other")
        await core.ready()
        await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
        await wait_for_operation(core, core.container_changes.switch("alice", "dev", SwitchRequest(profile="other")))
        await core.tick()
        before = core.row()
        store.delete("base", "1")
        for word in ("not available", "was replaced"):
            if word == "was replaced":
                publish(store, content=b"not what it was")
            with pytest.raises(RefusedError, match=word) as failure:
                await core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1"))
            assert "clone" in failure.value.hint
            with pytest.raises(RefusedError):
                await core.clones.clone("alice", "dev", CloneRequest(name="two", at="1"))
        assert core.row() == before
        assert core.registry.find("alice", "two") is None
        assert "rollback alice" not in core.launcher.asked

    asyncio.run(scenario())


def test_two_snapshots_are_compared_without_the_present_state(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        write(core, "1")
        await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
        write(core, "22")
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest(label="later"))
        write(core, "1")  # as in the first snapshot
        between = await core.snapshots.diff("alice", "dev", "1", "later")
        assert [(file.change, file.path) for file in between.files] == [("M", "/home/alice/file")]
        assert (between.base, between.system_as_of) == ("snapshot 1", None)
        assert [file.change for file in (await core.snapshots.diff("alice", "dev", None, "1")).files] == ["A"]
        with pytest.raises(NotFoundError, match="no snapshot 9"):
            await core.snapshots.diff("alice", "dev", "1", "9")

    asyncio.run(scenario())


def test_looking_into_a_session(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        write(core, "12345")
        await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
        write(core, "1234567")
        (changed,) = (await core.snapshots.diff("alice", "dev", "1")).files
        assert (changed.change, changed.volume, changed.path) == ("M", "home", "/home/alice/file")
        report = await core.snapshots.diff("alice", "dev", None)
        assert (report.base, report.files[0].change) == ("profile base@1", "A")
        size = await core.snapshots.size("alice", "dev")
        assert (size.bytes, [line.what for line in size.lines]) == (12, ["home", "system", "snapshot 1"])
        assert (await core.snapshots.verify("alice", "dev")).problems == []
        core.launcher.failures["size"] = LauncherError("files", "Input/output error")
        with pytest.raises(BerthError, match="Input/output"):
            await core.snapshots.size("alice", "dev")

    asyncio.run(scenario())
