"""Environments of batch jobs in the controller: what they are made of, who finds them, and when they go."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import ConflictError, NoSpaceError, NotFoundError, RefusedError
from broker.names import new_id
from broker.schema.environments import EnvironmentLayers, EnvironmentRequest, PromoteRequest
from broker.schema.sessions import SessionState, StartRequest
from broker.schema.volumes import SnapshotRequest
from profiles.image.store import Store
from tests.fakes.core import Clock, Core, publish, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler, SilentScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

DEV = EnvironmentRequest(of="dev")
WEEK = 7 * 86400.0


def play(
    tmp_path: Path,
    scenario: Callable[[Core], Awaitable[None]],
    scheduler: Callable[[], FakeScheduler] = FakeScheduler,
    **settings: object,
) -> None:
    async def scene() -> None:
        core = Core.make(site_config(tmp_path, **settings), FakeLauncher(scheduler()))
        await scenario(core)
        await core.settle()

    asyncio.run(scene())


async def ready(core: Core) -> None:
    """The session dev, ready, with a file in its home."""
    row = await core.ready()
    core.launcher.volumes.write("alice", row.id, "result", "tested")


def test_of_a_session_that_runs_and_goes_on(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        await ready(core)
        made = await core.environments.make("alice", DEV)
        assert (made.of, made.profile, made.version, made.jobs) == ("dev", "base", "1", [])
        row = core.row("dev")
        assert row.state is SessionState.READY
        copied = (await core.snapshots.snapshots("alice", "dev"))[-1]
        assert (copied.automatic, copied.reason) == (True, "for a batch job")
        assert core.launcher.volumes.read("alice", made.id) == {"result": "tested"}
        core.launcher.volumes.write("alice", row.id, "result", "changed since")
        assert core.launcher.volumes.read("alice", made.id) == {"result": "tested"}
        assert [view.name for view in await core.sessions.all("alice")] == ["dev"]
        assert (await core.sessions.events("alice", "dev"))[-1].action == "batch"

    play(tmp_path, scenario)


def test_of_a_session_without_a_job_and_of_a_profile(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        await core.stopped()
        made = await core.environments.make("alice", DEV)
        assert made.of == "dev"
        for asked in ("base", "base@1"):
            made = await core.environments.make("alice", EnvironmentRequest(of=asked))
            assert (made.of, core.launcher.volumes.read("alice", made.id)) == ("base@1", {})
        events = await core.sessions.events("alice")
        assert [event.detail for event in events if event.action == "batch"] == ["in dev", "in base@1", "in base@1"]
        assert len(await core.environments.all("alice")) == 3
        assert await core.environments.all("bob") == []

    play(tmp_path, scenario)


def test_of_a_snapshot_of_a_session_that_has_changed_since(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        await core.stopped()
        row = core.row("dev")
        core.launcher.volumes.write("alice", row.id, "result", "tested")
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest(label="green"))
        core.launcher.volumes.write("alice", row.id, "result", "changed since")
        (snapshot,) = await core.snapshots.snapshots("alice", "dev")
        for at in ("1", "green"):
            made = await core.environments.make("alice", EnvironmentRequest(of="dev", at=at))
            assert core.launcher.volumes.read("alice", made.id) == {"result": "tested"}
            assert (made.snapshot, made.digest) == (1, row.digest)
            assert made.layers == EnvironmentLayers(home=snapshot.home, system=snapshot.system)
        assert (await core.sessions.events("alice", "dev"))[-1].detail == "in dev, snapshot 1"
        assert [each.snapshot for each in await core.environments.all("alice")] == [1, 1]

    play(tmp_path, scenario)


@pytest.mark.parametrize(("of", "at"), [("dev", "7"), ("dev", "red"), ("base", "1"), ("base@1", "1")])
def test_snapshot_that_does_not_exist_is_an_error_and_makes_nothing(tmp_path: Path, of: str, at: str) -> None:
    async def scenario(core: Core) -> None:
        await core.stopped()
        with pytest.raises(NotFoundError):
            await core.environments.make("alice", EnvironmentRequest(of=of, at=at))
        assert await core.environments.all("alice") == []

    play(tmp_path, scenario)


def test_the_site_may_show_no_job_where_it_was_submitted_from(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        for allowed in (True, False):
            core.environments._settings = core.environments._settings.model_copy(
                update={"submission_directory": allowed}
            )
            made = await core.environments.make("alice", EnvironmentRequest(of="base"))
            assert made.shows_submission_directory is allowed

    play(tmp_path, scenario)


def test_a_session_goes_before_a_profile_of_its_name(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        await core.stopped("base")
        assert (await core.environments.make("alice", EnvironmentRequest(of="base"))).of == "base"
        assert (await core.environments.make("alice", EnvironmentRequest(of="base@1"))).of == "base@1"

    play(tmp_path, scenario)


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        for asked, says in [("none", "no session or profile none"), ("base@9", "no profile base@9")]:
            with pytest.raises(NotFoundError, match=says):
                await core.environments.make("alice", EnvironmentRequest(of=asked))
        await core.start()
        with pytest.raises(ConflictError, match="dev is queued"):
            await core.environments.make("alice", DEV)
        job = core.row().job.job_id
        assert job is not None
        core.scheduler.end(job)
        await core.tick()
        core.launcher.volumes.full = True
        with pytest.raises(NoSpaceError):
            await core.environments.make("alice", DEV)
        core.launcher.volumes.full = False
        assert await core.environments.all("alice") == []
        publish_again(core)
        with pytest.raises(RefusedError, match="was replaced by another one"):
            await core.environments.make("alice", DEV)

    play(tmp_path, scenario)


def test_forbidden_binds_are_refused_before_the_copy(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        core.config.storage.binds.append("/data")  # until the session runs
        publish(Store(tmp_path / "store"), "bound", extra="binds: [{source: /data}]\n")
        await core.start("dev", "alice", StartRequest(profile="bound"))
        job = core.row().job.job_id
        assert job is not None
        core.scheduler.start(job)
        core.announce(core.row())
        await core.tick()
        core.config.storage.binds.clear()
        with pytest.raises(RefusedError, match="binds /data"):
            await core.environments.make("alice", DEV)
        assert await core.snapshots.snapshots("alice", "dev") == [], "nothing was copied"

    play(tmp_path, scenario)


def publish_again(core: Core) -> None:
    """The image of base@1 is another one now."""
    image = core.stores.find("base", "1")
    described = json.loads((image.directory / "image.json").read_text())
    (image.directory / "image.json").write_text(json.dumps(described | {"digest": "sha256:" + "9" * 64}))


def test_a_job_becomes_a_session(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        await ready(core)
        made = await core.environments.make("alice", DEV)
        core.launcher.volumes.begin_job("alice", made.id, "7", {"result": "of the job"})
        for job, error in [("8", NotFoundError), ("7", None)]:
            request = PromoteRequest(name="debug", job=job)
            if error is not None:
                with pytest.raises(error, match="no job 8"):
                    await core.environments.promote("alice", made.id, request)
                continue
            view = await core.environments.promote("alice", made.id, request)
            assert (view.state, view.profile, view.version) == (SessionState.STOPPED, "base", "1")
        assert core.launcher.volumes.read("alice", core.row("debug").id) == {"result": "of the job"}
        with pytest.raises(ConflictError, match="a session named debug already"):
            await core.environments.promote("alice", made.id, PromoteRequest(name="debug", job="7"))
        with pytest.raises(NotFoundError):
            await core.environments.promote("alice", new_id(), PromoteRequest(name="other", job="7"))
        with pytest.raises(NotFoundError):
            await core.environments.promote("bob", made.id, PromoteRequest(name="other", job="7"))
        await core.environments.discard("alice", made.id)
        assert core.launcher.volumes.read("alice", core.row("debug").id) == {"result": "of the job"}

    play(tmp_path, scenario)


def test_a_promotion_counts_as_a_session(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        made = await core.environments.make("alice", EnvironmentRequest(of="base"))
        core.launcher.volumes.begin_job("alice", made.id, "7", {})
        await core.start()
        with pytest.raises(RefusedError, match=r"session limit reached \(1 of 1\)"):
            await core.environments.promote("alice", made.id, PromoteRequest(name="debug", job="7"))

    play(tmp_path, scenario, limits={"sessions": 1})


def test_a_promotion_whose_answer_is_lost_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock().install(monkeypatch)

    async def scenario(core: Core) -> None:
        made = await core.environments.make("alice", EnvironmentRequest(of="base"))
        core.launcher.volumes.begin_job("alice", made.id, "7", {"result": "x"})
        core.launcher.loses["promote"] = 1
        asked = asyncio.create_task(core.environments.promote("alice", made.id, PromoteRequest(name="debug", job="7")))
        while not core.launcher.volumes.records.keys() - {("alice", made.id)}:  # noqa: ASYNC110 - the fake tells nobody
            await asyncio.sleep(0)
        await core.settle()
        clock.now += 60
        await core.tick()
        view = await asked
        assert view.state is SessionState.STOPPED
        assert core.launcher.volumes.read("alice", view.id) == {"result": "x"}

    play(tmp_path, scenario)


def awake() -> FakeScheduler:
    """Return a scheduler that can fall silent."""
    made = SilentScheduler()
    made.silent = False
    return made


def test_environments_go_a_week_after_their_last_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock().install(monkeypatch)

    async def scenario(core: Core) -> None:
        waits, ended, unknown = [await core.environments.make("alice", EnvironmentRequest(of="base")) for _ in range(3)]
        told = core.launcher.volumes.environments
        told["alice", waits.id]["job_id"] = core.scheduler.submit("job.sh", user="alice")
        told["alice", ended.id]["job_id"] = job = core.scheduler.submit("job.sh", user="alice")
        core.scheduler.start(job)
        core.scheduler.end(job)
        clock.now += WEEK - 60
        await core.environments.sweep("alice")
        assert len(await core.environments.all("alice")) == 3
        clock.now += 3600
        assert isinstance(core.scheduler, SilentScheduler)
        core.scheduler.silent = True
        await core.environments.sweep("alice")
        assert len(await core.environments.all("alice")) == 3  # no answer is not an answer
        core.scheduler.silent = False
        await core.environments.sweep("alice")
        assert [each.id for each in await core.environments.all("alice")] == [waits.id]
        assert unknown.id not in core.launcher.volumes.layers

    play(tmp_path, scenario, awake)


def test_one_that_a_job_has_open_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock().install(monkeypatch)

    async def scenario(core: Core) -> None:
        made = await core.environments.make("alice", EnvironmentRequest(of="base"))
        core.launcher.volumes.open.add(made.id)
        clock.now += 2 * WEEK
        await core.environments.sweep("alice")
        with pytest.raises(ConflictError):
            await core.environments.discard("alice", made.id)
        assert len(await core.environments.all("alice")) == 1
        core.launcher.failures["environments"] = LauncherError("gone", "the launcher has left")
        await core.environments.sweep("alice")

    play(tmp_path, scenario)


def test_a_rebuild_takes_no_environment_for_a_session(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        publish(core.stores.stores[0], "other")
        await core.environments.make("alice", EnvironmentRequest(of="other"))
        assert await core.launcher.manifests("alice") == {}

    play(tmp_path, scenario)
