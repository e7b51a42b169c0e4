"""What people ask of a session's volumes, in every state: what becomes of session, data and image, what is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.registry.registry import EventEntry
from broker.errors import BerthError, ConflictError, NoSpaceError, NotFoundError, RefusedError
from broker.schema.sessions import LIVE, Persistence, SessionState, StartRequest
from broker.schema.volumes import CloneRequest, RollbackRequest, SnapshotRequest, SwitchRequest
from profiles.image.store import Store
from slurm.state import JobState
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Core, publish, site_config
from tests.fakes.launcher import FakeLauncher, RefusingLauncher
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from broker.controller.registry.models import Session
    from broker.schema.sessions import SessionView

SNAPSHOT = SnapshotRequest()


@pytest.fixture
def core(tmp_path: Path) -> Core:
    async def make() -> Core:
        return Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))

    return asyncio.run(make())


def put(core: Core, state: SessionState, **values: Any) -> Session:  # noqa: ANN401 - columns of several types
    """A session in that state, with volumes."""
    image = core.stores.find("base")
    row = make_session(state=state, digest=image.digest, image_path=str(image.path), host_key="", **values)
    asyncio.run(core.launcher.prepare("alice", row.id, "auto"))
    return core.registry.create(row, EventEntry("alice", "start"))


def write(core: Core, content: str, volume: str = "home", name: str = "dev") -> None:
    core.launcher.volumes.write("alice", core.row(name).id, "file", content, volume)


def read(core: Core, volume: str = "home", name: str = "dev") -> str:
    return core.launcher.volumes.read("alice", core.row(name).id, volume).get("file", "")


def end_job(core: Core, state: JobState = JobState.CANCELLED, name: str = "dev") -> None:
    job_id = core.row(name).job.job_id
    assert job_id is not None
    core.scheduler.end(job_id, state)


async def wait_for_operation(core: Core, asked: Coroutine[Any, Any, SessionView]) -> SessionView:
    """Ticks go on while somebody waits for the answer."""
    waiting = asyncio.ensure_future(asked)
    while not waiting.done():
        await core.reconciler.tick()
        await asyncio.sleep(0.001)
    return await waiting


# Snapshots and rollback.


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
        assert (core.row().state, core.row().generation) == (SessionState.QUEUED, "2.0")
        assert core.row().options == ["--mem=3G"]
        assert read(core) == "old"
        assert len(core.live_jobs(core.row())) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("state", sorted(LIVE - {SessionState.READY}))
def test_what_a_session_on_its_way_can_be_asked_for(core: Core, state: SessionState) -> None:
    """It has nothing to be copied by yet; a rollback ends its job whatever it is doing."""
    put(core, state, job_id=7)
    stopping = state is SessionState.STOPPING

    async def scenario() -> None:
        core.launcher.volumes._now("alice", core.row().image, core.launcher.volumes.records["alice", core.row().id])
        if stopping:
            operation = (await _begun(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))).operation
        else:
            with pytest.raises(ConflictError, match=state.value):
                await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
            view = await _begun(core, core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")))
            assert view.state is SessionState.STOPPING
            operation = view.operation
        assert operation is not None
        intent = core.row().pending
        assert intent is not None
        assert intent.start is not stopping

    asyncio.run(scenario())


async def _begun(core: Core, asked: Coroutine[Any, Any, SessionView]) -> SessionView:
    """Ask, and leave once the operation is recorded."""
    waiting = asyncio.ensure_future(asked)
    async with asyncio.timeout(DEADLINE_S):
        while core.row().pending is None and not waiting.done():  # noqa: ASYNC110 - nobody is told of a record
            await asyncio.sleep(0.001)
    if waiting.done():
        return await waiting
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return core.row().view()


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


def test_a_session_that_ends_while_it_is_copied_is_kept_as_it_has_ended(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        write(core, "last words")
        core.launcher.failures["copy"] = LauncherError("timed-out", "")
        await _begun(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))
        await core.settle()
        end_job(core, JobState.FAILED)
        await core.tick()
        assert core.row().state is SessionState.CHANGING
        core.operations._backoff.forget(core.row().id)
        await core.tick()
        assert core.row().state is SessionState.FAILED
        assert (await core.snapshots.snapshots("alice", "dev"))[0].consistency == "stopped"

    asyncio.run(scenario())


def test_a_job_that_slurm_requeues_ends_its_copy_with_words(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        core.launcher.failures["copy"] = LauncherError("timed-out", "")
        await _begun(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))
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
                core.snapshots.clone("alice", "dev", CloneRequest(name="two", at=reference)),
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
        await wait_for_operation(core, core.snapshots.switch("alice", "dev", SwitchRequest(profile="other")))
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
                await core.snapshots.clone("alice", "dev", CloneRequest(name="two", at="1"))
        assert core.row() == before
        assert core.registry.find("alice", "two") is None
        assert "rollback alice" not in core.launcher.asked

    asyncio.run(scenario())


# Switch.


def test_a_switch_keeps_the_home_and_brings_back_the_system_of_before(core: Core) -> None:
    async def scenario() -> None:
        store = Store(core.config.profiles.stores[0])
        extra = "persistence: {home: fresh}\n"
        other = publish(store, "other", "7", extra, content=b"other")
        await core.stopped()
        write(core, "my home")
        write(core, "of base", "system")
        view = await core.snapshots.switch("alice", "dev", SwitchRequest(profile="other"))
        assert (view.profile, view.version, view.digest) == ("other", "7", other.digest)
        assert (core.row().image_path, core.row().image_size) == (str(other.path), other.size)
        assert view.persistence.home == "fresh"
        assert (read(core), read(core, "system")) == ("my home", "")
        assert view.operation is not None
        assert view.operation.undo == "berth rollback dev 1"
        with pytest.raises(ConflictError, match="already"):
            await core.snapshots.switch("alice", "dev", SwitchRequest(profile="other"))
        await core.snapshots.switch("alice", "dev", SwitchRequest(profile="base"))
        assert (read(core), read(core, "system")) == ("my home", "of base")
        assert core.row().policy == Persistence()
        view = await core.snapshots.switch("alice", "dev", SwitchRequest(profile="base", fresh=True))
        assert read(core, "system") == ""
        await core.start()
        files = core.launcher.directories["alice", core.row().id].files
        assert "BERTH_PROFILE=base\n" in files["job.env"]

    asyncio.run(scenario())


def test_the_policy_is_the_profiles_until_its_owner_chooses_one(core: Core) -> None:
    async def scenario() -> None:
        store = Store(core.config.profiles.stores[0])
        publish(store, "kept", "1", "persistence: {system: fresh, keep: [~/x, /opt/y], fresh: [~/z]}\n", b"kept")
        view = await core.start(request=StartRequest(profile="kept"))
        assert view.persistence == Persistence(system="fresh", keep=["~/x", "/opt/y"], fresh=["~/z"])
        env = core.launcher.directories["alice", core.row().id].files["job.env"]
        for line in ("HOME=keep", "SYSTEM=fresh", "KEEP=/home/alice/x,/opt/y", "FRESH=/home/alice/z"):
            assert f"BERTH_{line}\n" in env
        mine = Persistence(home="fresh")
        with pytest.raises(ConflictError, match="with another persistence policy"):
            await core.start(request=StartRequest(persistence=mine))
        end_job(core)
        await core.tick()
        await core.start(request=StartRequest(persistence=mine))
        assert core.row().policy == mine
        end_job(core)
        await core.tick()
        await core.snapshots.switch("alice", "dev", SwitchRequest(profile="base"))
        assert core.row().policy == mine
        await core.snapshots.switch("alice", "dev", SwitchRequest(profile="kept", persistence=Persistence()))
        assert core.row().policy == Persistence()

    asyncio.run(scenario())


# Clone.


@pytest.mark.parametrize("running", [False, True])
def test_a_clone_begins_as_its_source_and_goes_its_own_way(core: Core, running: bool) -> None:
    async def scenario() -> None:
        await core.start(request=StartRequest(profile="base", options=["--mem=2G"]))
        await (core.ready() if running else core.stopped())
        write(core, "shared")
        view = await core.snapshots.clone("alice", "dev", CloneRequest(name="two"))
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
        await core.snapshots.clone("alice", "dev", CloneRequest(name="two", start=True))
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
        await core.snapshots.clone("alice", "dev", CloneRequest(name="two", at="then"))
        assert (read(core, name="two"), read(core, "system", "two")) == ("old", "of base")
        view = await core.snapshots.clone("alice", "dev", CloneRequest(name="three", profile="other"))
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
        await core.snapshots.clone("alice", "dev", CloneRequest(name="two"))
        launcher.words = "no such account"
        with pytest.raises(RefusedError):
            await core.start("two")
        assert core.row("two").state is SessionState.STOPPED
        await core.snapshots.clone("alice", "dev", CloneRequest(name="three", start=True))
        await core.settle()
        assert (core.row("three").state, core.row("three").reason) == (SessionState.STOPPED, "no such account")

    asyncio.run(scenario())


def test_a_clone_that_cannot_be_made_leaves_nothing(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        with pytest.raises(ConflictError, match="already"):
            await core.snapshots.clone("alice", "dev", CloneRequest(name="dev"))
        core.launcher.volumes.full = True
        with pytest.raises(NoSpaceError) as failure:
            await core.snapshots.clone("alice", "dev", CloneRequest(name="two"))
        assert "berth gc" in failure.value.hint
        assert core.registry.find("alice", "two") is None
        assert len(core.launcher.directories) == 1
        core.launcher.volumes.full = False
        assert (await core.snapshots.clone("alice", "dev", CloneRequest(name="two"))).name == "two"

    asyncio.run(scenario())


def test_whoever_waits_for_a_clone_hears_why_there_is_none(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await core.stopped()
        await core.snapshots.clone("alice", "dev", CloneRequest(name="two"))
        await core.sessions.delete("alice", "two")  # can be restored, but is not what they wait for
        await core.tick()
        monkeypatch.setattr("broker.controller.sessions.pending.ANSWER_TIMEOUT_S", 0.01)
        core.launcher.failures["clone"] = LauncherError("timed-out", "")
        view = await core.snapshots.clone("alice", "dev", CloneRequest(name="two"))
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


# Who may, and when not.


CHANGES: dict[str, Callable[[Core], Coroutine[Any, Any, object]]] = {
    "snapshot": lambda c: c.snapshots.snapshot("alice", "dev", SNAPSHOT),
    "rollback": lambda c: c.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")),
    "switch": lambda c: c.snapshots.switch("alice", "dev", SwitchRequest(profile="base", fresh=True)),
    "clone": lambda c: c.snapshots.clone("alice", "dev", CloneRequest(name="two")),
    "flatten": lambda c: c.snapshots.flatten("alice", "dev"),
    "root": lambda c: c.snapshots.root("alice", "dev"),
    "delete": lambda c: c.sessions.delete("alice", "dev"),
}


@pytest.mark.parametrize("word", CHANGES)
def test_one_operation_at_a_time(core: Core, word: str) -> None:
    async def scenario() -> None:
        await core.stopped()
        core.launcher.failures["snapshot"] = LauncherError("timed-out", "")
        await _begun(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))
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
            ask.switch("bob", "dev", SwitchRequest(profile="base")),
            ask.clone("bob", "dev", CloneRequest(name="mine", at="1")),
            ask.diff("bob", "dev", None),
            ask.size("bob", "dev"),
            ask.verify("bob", "dev"),
            ask.flatten("bob", "dev"),
            ask.root("bob", "dev"),
            ask.commit_root("bob", "dev"),
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


# While it is being changed.


@pytest.mark.parametrize(("asked", "ends"), [("start", "queued"), ("stop", "stopped")])
def test_start_and_stop_while_it_is_being_changed(core: Core, asked: str, ends: str) -> None:
    """They say what the session is to be afterwards."""

    async def scenario() -> None:
        await (core.stopped() if asked == "start" else core.ready())
        await core.snapshots.snapshot("alice", "dev", SNAPSHOT)
        core.launcher.failures["rollback"] = LauncherError("timed-out", "")
        await _begun(core, core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")))
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


# Root mode.


def test_root_mode_from_beginning_to_end(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        view = await wait_for_operation(core, core.snapshots.root("alice", "dev"))
        await core.settle()
        assert view.root
        assert "BERTH_ROOT=yes\n" in core.launcher.directories["alice", core.row().id].files["job.env"]
        with pytest.raises(ConflictError, match="root mode"):
            await core.snapshots.commit_root("alice", "dev")
        job_id = core.row().job.job_id
        assert job_id is not None
        core.scheduler.start(job_id)
        core.announce(core.row())
        await core.tick()
        assert core.row().state is SessionState.READY
        assert (await core.snapshots.root("alice", "dev")).root
        for word in ("snapshot", "rollback", "switch", "clone"):
            with pytest.raises(ConflictError, match="root mode") as failure:
                await CHANGES[word](core)
            assert "berth stop dev" in failure.value.hint
        with pytest.raises(ConflictError, match="berth stop dev"):
            await core.connect.connect("alice", "dev")
        with pytest.raises(ConflictError, match="root mode"):
            await core.start()
        assert (await core.connect.connect("alice", "dev", root=True)).host == "c1"
        view = await core.snapshots.commit_root("alice", "dev")
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
        await core.snapshots.root("alice", "dev")
        await core.settle()
        assert (core.row().state, core.row().root) == (SessionState.STOPPED, False)
        launcher.words = ""
        assert (await core.snapshots.root("alice", "dev")).root

    asyncio.run(scenario())


@pytest.mark.parametrize("running", [False, True])
def test_root_mode_that_cannot_begin_leaves_the_session_as_it_was(core: Core, running: bool) -> None:
    async def scenario() -> None:
        await (core.ready() if running else core.stopped())
        core.launcher.volumes.full = True
        with pytest.raises(NoSpaceError):
            await wait_for_operation(core, core.snapshots.root("alice", "dev"))
        await core.settle()
        assert core.row().state is (SessionState.QUEUED if running else SessionState.STOPPED)
        assert not core.row().root

    asyncio.run(scenario())


def test_a_stop_on_the_way_to_root_mode_is_a_stop(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        await _begun(core, core.snapshots.root("alice", "dev"))
        await core.sessions.stop("alice", "dev")
        for _ in range(3):
            await core.tick()
        assert (core.row().state, core.row().root) == (SessionState.STOPPED, False)
        assert core.launcher.submissions() == 1

    asyncio.run(scenario())
