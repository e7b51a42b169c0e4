"""Operations whose launcher dies, hangs, refuses or has no space, and whose controller is killed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import broker.controller.reconcile.operation_runner
from broker.controller.launcher_client.errors import LauncherError, to_user_error
from broker.errors import BerthError, ConflictError, InvalidInputError, NoSpaceError, NotFoundError, RefusedError
from broker.schema.sessions import SessionState
from broker.schema.volumes import CloneRequest, RollbackRequest, SnapshotRequest, SwitchRequest
from profiles.image.store import Store
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Clock, Core, publish, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from broker.schema.sessions import SessionView

ASKED: dict[str, Callable[[Core], Coroutine[Any, Any, SessionView]]] = {
    "snapshot": lambda c: c.snapshots.snapshot("alice", "dev", SnapshotRequest(label="asked")),
    "rollback": lambda c: c.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")),
    "switch": lambda c: c.container_changes.switch("alice", "dev", SwitchRequest(profile="other")),
    "clone": lambda c: c.clones.clone("alice", "dev", CloneRequest(name="two")),
}
MADE = {"snapshot": 2, "rollback": 2, "switch": 2, "clone": 2}
"""The number of snapshots of `dev` after each operation; one of them was there before."""


async def made(tmp_path: Path, *, running: bool = False, clock: Clock | None = None) -> Core:
    """A session `dev` with one snapshot, and a second profile."""
    scheduler = FakeScheduler() if clock is None else FakeScheduler(now=clock.time)
    core = Core.make(site_config(tmp_path), FakeLauncher(scheduler))
    publish(Store(core.config.profiles.stores[0]), "other", content=b"other")
    await core.stopped()
    core.launcher.volumes.write("alice", core.row().id, "file", "old")
    await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
    if running:
        await core.ready()
    core.launcher.volumes.write("alice", core.row().id, "file", "new")
    return core


async def asked(core: Core, word: str) -> asyncio.Future[SessionView]:
    """Begin a request, which waits while the loop ticks."""
    asking = asyncio.ensure_future(ASKED[word](core))
    await asyncio.sleep(0)
    return asking


async def failing_rollback(
    tmp_path: Path, clock: Clock, kind: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Core, SessionView]:
    """Request a rollback that fails with this kind of error each time. Return soon, with the session's view."""
    core = await made(tmp_path, clock=clock)
    monkeypatch.setattr("broker.controller.sessions.pending.ANSWER_TIMEOUT_S", 0.05)
    core.launcher.failures["rollback"] = LauncherError(kind, "who knows")
    return core, await ASKED["rollback"](core)


async def until(core: Core, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await core.reconciler.tick()
            await asyncio.sleep(0.001)


async def given_up(asking: asyncio.Future[SessionView]) -> None:
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("word", "verb"),
    [
        ("snapshot", ""),
        ("rollback", ""),
        ("rollback", "install"),
        ("switch", ""),
        ("switch", "install"),
        ("clone", ""),
        ("clone", "copy"),
    ],
)
def test_a_controller_killed_at_any_point_is_taken_up_where_it_was(
    tmp_path: Path, word: str, verb: str, when: str, running: bool
) -> None:
    """The launcher has or has not answered the request; the next controller continues, and nothing is done twice."""

    async def scenario() -> None:
        core = await made(tmp_path, running=running)
        stuck = verb or ("copy" if running and word == "snapshot" else word)
        if stuck == "copy" and not running:
            stuck = "clone"
        core.launcher.hangs = {stuck: when}
        asking = await asked(core, word)
        await until(core, core.launcher.stuck.is_set)
        await given_up(asking)
        await core.kill()
        core.launcher.hangs.clear()
        core = Core.make(core.config, core.launcher)
        row = "two" if word == "clone" else "dev"
        assert core.row(row).pending is not None
        await until(core, lambda: core.row(row).pending is None)
        await core.settle()
        intent = core.row(row).last_operation
        assert intent is not None
        assert (intent.verb, intent.status) == (word, "done")
        assert len(await core.snapshots.snapshots("alice", "dev")) == MADE[word]
        content = core.launcher.volumes.read("alice", core.row(row).id)["file"]
        assert content == ("old" if word == "rollback" else "new")
        assert core.row().profile == ("other" if word == "switch" else "base")
        if running:
            stopped = word in {"rollback", "switch"}
            assert core.row().generation == ("3.0" if stopped else "2.0")
            assert len(core.live_jobs(core.row())) == 1
        else:
            assert core.row().state is SessionState.STOPPED

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["crashed", "timed-out"])
def test_a_child_that_dies_each_time_does_not_keep_the_session_for_ever(
    tmp_path: Path, clock: Clock, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        core, _ = await failing_rollback(tmp_path, clock, kind, monkeypatch)
        for _ in range(broker.controller.reconcile.operation_runner.MAX_TRIES):
            clock.now += broker.controller.reconcile.operation_runner.MAX_PAUSE_S + 1
            await core.tick()
        row = core.row()
        assert row.state is SessionState.STOPPED
        assert row.last_operation is not None
        assert row.last_operation.status == "failed"

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["crashed", "timed-out", "gone", "unclear"])
def test_what_is_unclear_is_asked_again_with_the_same_id_after_a_pause(
    tmp_path: Path, clock: Clock, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        core, view = await failing_rollback(tmp_path, clock, kind, monkeypatch)
        assert view.state is SessionState.CHANGING
        assert view.operation is not None
        assert view.operation.status == "pending"
        for _ in range(8):
            await core.tick()
        assert core.launcher.asked.count("rollback alice") == 1, "not before the pause is over"
        pause = broker.controller.reconcile.operation_runner.FIRST_PAUSE_S
        for times in range(2, 12):
            clock.now += min(pause, broker.controller.reconcile.operation_runner.MAX_PAUSE_S) + 0.01
            pause *= 2
            await core.tick()
            assert core.launcher.asked.count("rollback alice") == times
        core.launcher.failures.clear()
        clock.now += broker.controller.reconcile.operation_runner.MAX_PAUSE_S
        await core.tick()
        after = core.row().view().operation
        assert after is not None
        assert (after.id, after.status) == (view.operation.id, "done")

    asyncio.run(scenario())


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("word", ["rollback", "switch", "snapshot"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("space", NoSpaceError),
        ("conflict", ConflictError),
        ("missing", NotFoundError),
        ("refused", RefusedError),
        ("invalid", InvalidInputError),
        ("files", BerthError),
    ],
)
def test_what_fails_clearly_leaves_the_session_as_it_was(
    tmp_path: Path, word: str, kind: str, error: type[BerthError], running: bool
) -> None:
    async def scenario() -> None:
        core = await made(tmp_path, running=running)
        before = core.row()
        files = core.launcher.directories["alice", before.id].files
        core.launcher.failures[word] = core.launcher.failures["copy"] = LauncherError(kind, "what the disk says")
        asking = await asked(core, word)
        await until(core, asking.done)
        with pytest.raises(error, match="what the disk says") as failure:
            await asking
        assert failure.value.reason == error.reason
        await core.settle()
        after = core.row()
        assert (after.profile, after.volumes) == (before.profile, before.volumes)
        assert core.launcher.volumes.read("alice", after.id) == {"file": "new"}
        assert '"operation": null' in files["manifest.json"]
        if not running:
            assert (after.state, after.reason) == (before.state, before.reason)
        else:
            kept = {SessionState.STARTING, SessionState.READY}  # in the job that waited for the operation
            assert after.state in {SessionState.QUEUED, *kept}
            assert after.generation == ("2.0" if word == "snapshot" else "3.0")
        core.launcher.failures.clear()
        assert (await core.snapshots.snapshots("alice", "dev"))[-1].number == 1

    asyncio.run(scenario())


def test_volumes_that_a_dying_job_has_open_are_waited_for_but_not_for_ever(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = await made(tmp_path, clock=clock)
        core.launcher.volumes.open.add(core.row().id)
        asking = await asked(core, "rollback")
        await until(core, lambda: "rollback alice" in core.launcher.asked)
        for _ in range(10):
            clock.now += 2
            await core.tick()
        assert core.row().state is SessionState.CHANGING
        core.launcher.volumes.open.clear()
        clock.now += 60
        await core.tick()
        await asking
        assert core.row().state is SessionState.STOPPED

        core.launcher.volumes.open.add(core.row().id)
        asking = await asked(core, "rollback")
        await until(core, lambda: core.row().state is SessionState.CHANGING)
        for _ in range(20):
            await core.tick()
            clock.now += broker.controller.reconcile.operation_runner.BUSY_TIMEOUT_S / 10
        with pytest.raises(ConflictError, match="open in a job"):
            await asking
        assert core.row().state is SessionState.STOPPED

    asyncio.run(scenario())


def test_a_job_that_dies_while_it_copies_leaves_the_snapshot_to_be_taken_without_it(
    tmp_path: Path, clock: Clock
) -> None:
    """Also when the launcher sees its end before Slurm tells us."""

    async def scenario() -> None:
        core = await made(tmp_path, running=True, clock=clock)
        session = core.row()
        assert session.job.job_id is not None
        core.launcher.failures["copy"] = LauncherError("ended", "the job is gone")
        asking = asyncio.ensure_future(core.snapshots.snapshot("alice", "dev", SnapshotRequest()))
        await until(core, lambda: "copy alice" in core.launcher.asked)
        await core.settle()
        assert core.row().pending is not None
        core.scheduler.end(session.job.job_id)
        while core.row().pending is not None:
            clock.now += broker.controller.reconcile.operation_runner.FIRST_PAUSE_S
            await core.tick()
        await given_up(asking)
        assert core.row().state is SessionState.STOPPED
        made_then = (await core.snapshots.snapshots("alice", "dev"))[-1]
        assert (made_then.number, made_then.consistency) == (2, "stopped")

    asyncio.run(scenario())


def test_a_disk_that_is_full_after_the_deed_does_not_undo_it(tmp_path: Path) -> None:
    """The manifest of afterwards cannot be written; the volumes are changed all the same."""

    async def scenario() -> None:
        core = await made(tmp_path)
        real, installs = core.launcher.install, []

        async def install(user: str, session_id: str, files: dict[str, str]) -> None:
            installs.append(files)
            if len(installs) == 2:
                raise LauncherError("files", "No space left on device")
            await real(user, session_id, files)

        core.launcher.install = install  # type: ignore[assignment,method-assign]  # a disk that fills up in between
        view = await ASKED["rollback"](core)
        assert view.operation is not None
        assert view.operation.status == "done"
        assert core.launcher.volumes.read("alice", core.row().id) == {"file": "old"}

    asyncio.run(scenario())


def test_a_fault_of_ours_is_no_end(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged and tried again, and does not take the loop with it."""

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    async def scenario() -> None:
        core = await made(tmp_path, clock=clock)
        with monkeypatch.context() as patch:
            patch.setattr(core.launcher, "rollback", fail)
            asking = await asked(core, "rollback")
            await until(core, lambda: core.row().pending is not None)
            await core.settle()
            await given_up(asking)
        clock.now += broker.controller.reconcile.operation_runner.FIRST_PAUSE_S
        await core.tick()
        intent = core.row().last_operation
        assert intent is not None
        assert intent.status == "done"

    asyncio.run(scenario())


def test_words_for_every_kind() -> None:
    for kind in ("invalid", "refused", "missing", "files", "busy", "space", "conflict", "crashed", "new one"):
        error = to_user_error(LauncherError(kind, "said"), "dev")
        assert "said" in error.message
        assert error.hint


# In the background.


def test_deep_stacks_are_flattened_after_a_stop_and_nobody_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = site_config(tmp_path, storage={"root": "/s/{user}", "flatten_at": 3})
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        session = await core.stopped()
        for number in range(4):
            core.launcher.volumes.write("alice", session.id, f"file{number}", "x")
            await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
            assert core.row().last_operation is not None
        await core.settle()
        volumes = core.row().view().volumes
        assert volumes is not None
        assert volumes.layers == {"home": 1, "system": 0}
        assert len(core.launcher.volumes.read("alice", session.id)) == 4
        assert core.launcher.volumes.read_snapshot("alice", session.id, 1) == {"file0": "x"}

    asyncio.run(scenario())


def test_failed_flattening_is_shown_until_one_succeeds(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = await made(tmp_path)
        for _ in range(2):
            core.launcher.volumes.write("alice", core.row().id, "file", "x")
            await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
        for full, shown in ((True, "No space left on device"), (False, "")):
            core.launcher.volumes.full = full
            with contextlib.suppress(BerthError):
                await core.snapshots.flatten("alice", "dev")
            await core.settle()
            volumes = core.row().view().volumes
            assert volumes is not None
            assert volumes.unflattened == shown

    asyncio.run(scenario())


def test_a_start_does_not_wait_for_flattening_and_a_failed_one_harms_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = await made(tmp_path)
        core.launcher.hangs = {"flatten": "before"}
        flattening = asyncio.ensure_future(core.snapshots.flatten("alice", "dev"))
        await core.launcher.stuck.wait()
        assert (await core.start()).state is SessionState.QUEUED
        await given_up(flattening)
        await core.maintenance.close()
        core.launcher.hangs.clear()
        with pytest.raises(ConflictError, match="queued"):
            await core.snapshots.flatten("alice", "dev")
        assert core.row().job.job_id is not None
        core.scheduler.end(core.row().job.job_id or 0)
        await core.tick()
        core.launcher.failures["flatten"] = LauncherError("conflict", "the stacks are others by now")
        with pytest.raises(ConflictError):
            await core.snapshots.flatten("alice", "dev")
        core.launcher.failures.clear()
        assert (await core.snapshots.flatten("alice", "dev")).state is SessionState.STOPPED

    asyncio.run(scenario())
