"""A lost or old registry comes back from the manifests beside the data and from Slurm's jobs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.config.settings import Config
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.rebuild import rebuild, users_with_data
from broker.controller.registry.manifest import Manifest
from broker.controller.registry.models import Session
from broker.controller.registry.registry import EventEntry
from broker.errors import SlurmUnavailableError
from broker.schema.sessions import SessionState
from broker.schema.site import RebuildReport
from broker.schema.volumes import RollbackRequest, SnapshotRequest, SwitchRequest
from profiles.image.store import Store
from tests.fakes.core import Core, publish, site_config
from tests.fakes.launcher import Directory, FakeLauncher
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler, SilentScheduler

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A site whose users' directories can be seen: alice has data, carol an empty directory."""
    for user in ("alice", "carol"):
        (tmp_path / "shared" / user).mkdir(parents=True)
    return site_config(tmp_path, storage={"root": f"{tmp_path}/shared/{{user}}"})


async def lose_registry(core: Core) -> Core:
    core.registry.close()
    for file in core.config.state_dir.glob("registry.db*"):
        file.unlink()
    return Core.make(core.config, core.launcher)


async def run(core: Core) -> RebuildReport:
    return await rebuild(core.config, core.registry, core.scheduler, core.launcher)


def test_a_lost_registry_comes_back_whole_and_running_sessions_go_on(config: Config) -> None:
    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        running = await core.ready("running")
        stopped = await core.ready("stopped")
        assert stopped.job.job_id is not None
        core.scheduler.end(stopped.job.job_id)
        core.scheduler.forget(stopped.job.job_id)
        core = await lose_registry(core)
        await core.tick()
        assert len(core.live_jobs(running)) == 1, "an empty registry must not end anybody's job"
        report = await run(core)
        assert report == RebuildReport(restored=["alice/running", "alice/stopped"], skipped=[])
        await core.tick()
        again = core.row("running")
        for column in ("id", "endpoint", "submission", "host_key", "digest", "options", "state"):
            assert getattr(again, column) == getattr(running, column), column
        assert again.job.job_id == running.job.job_id
        assert core.row("stopped").state is SessionState.STOPPED
        assert (await core.start("stopped")).generation == "2.0"
        assert await run(core) == RebuildReport(restored=[])

    asyncio.run(scenario())


def test_a_renamed_session_comes_back_under_its_new_name(config: Config) -> None:
    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        await core.stopped()
        await core.rename.rename("alice", "dev", "thesis")
        renamed = core.row("thesis")
        core = await lose_registry(core)
        assert await run(core) == RebuildReport(restored=["alice/thesis"], skipped=[])
        assert core.row("thesis").host_key == renamed.host_key

    asyncio.run(scenario())


def test_an_old_registry_learns_the_name_and_host_key_of_a_session_that_was_renamed_and_started(
    config: Config,
) -> None:
    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        await core.stopped()
        file = config.state_dir / "registry.db"
        core.registry.close()
        old = file.read_bytes()
        core = Core.make(config, core.launcher)
        await core.rename.rename("alice", "dev", "thesis")
        renamed = await core.ready("thesis")
        core.registry.close()
        file.write_bytes(old)
        core = Core.make(config, core.launcher)
        assert await run(core) == RebuildReport(restored=["alice/thesis"], skipped=[])
        await core.tick()
        again = core.row("thesis")
        assert (again.host_key, again.endpoint) == (renamed.host_key, renamed.endpoint)

    asyncio.run(scenario())


def test_without_slurms_answer_nothing_is_restored(config: Config) -> None:
    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(SilentScheduler()))
        with pytest.raises(SlurmUnavailableError):
            await run(core)
        assert core.launcher.asked == []

    asyncio.run(scenario())


def test_what_cannot_be_used_is_named_and_holds_up_nothing(config: Config) -> None:
    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        good = Manifest.of(make_session(name="good", owner="alice"))
        texts = {
            good.id: good.model_dump_json(),
            "01jd0000000000000000000001": "",
            "01jd0000000000000000000002": "{",
            "01jd0000000000000000000003": good.model_dump_json(),
            "01jd0000000000000000000004": good.model_copy(
                update={"id": "01jd0000000000000000000004", "owner": "bob"}
            ).model_dump_json(),
            "01jd0000000000000000000005": good.model_copy(
                update={"id": "01jd0000000000000000000005", "submission": -1}
            ).model_dump_json(),
            "01jd0000000000000000000006": good.model_copy(
                update={"id": "01jd0000000000000000000006"}
            ).model_dump_json(),
        }
        for session_id, text in texts.items():
            core.launcher.directories["alice", session_id] = Directory("", {"manifest.json": text})
        report = await run(core)
        assert report.restored == ["alice/good"]
        reasons = [line.partition(": ") for line in report.skipped]
        assert [where.removeprefix("alice/")[-1] for where, _, _ in reasons] == list("123456")
        for (_, _, reason), word in zip(
            reasons,
            ["no manifest", "JSON", "belongs to", "belongs to bob", "submission", "another session named good"],
            strict=True,
        ):
            assert word in reason

    asyncio.run(scenario())


def test_manifest_with_the_id_of_another_users_session_changes_nothing(config: Config) -> None:
    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        session = await core.ready()
        (config.state_dir.parent / "shared" / "mallory").mkdir(exist_ok=True)
        forged = Manifest.of(session).model_copy(update={"owner": "mallory", "name": "taken", "submissions": 99})
        core.launcher.directories["mallory", session.id] = Directory("", {"manifest.json": forged.model_dump_json()})
        before = core.row()
        report = await run(core)
        assert [line for line in report.skipped if line.startswith("mallory/")] == [
            f"mallory/{session.id}: the session belongs to alice"
        ]
        assert (core.row().name, core.row().owner, core.row().submissions) == ("dev", "alice", before.submissions)

        core = await lose_registry(core)  # now nothing says whose it is
        report = await run(core)
        assert report.restored == []
        assert [line.partition(": ")[0] for line in report.skipped] == [
            f"alice/{session.id}",
            f"mallory/{session.id}",
        ]
        del core.launcher.directories["mallory", session.id]
        assert (await run(core)).restored == ["alice/dev"]

    asyncio.run(scenario())


def test_a_user_whose_files_cannot_be_read_holds_up_nobody(config: Config) -> None:
    async def scenario() -> None:
        class Half(FakeLauncher):
            async def manifests(self, user: str) -> dict[str, str]:
                if user == "alice":
                    raise LauncherError("files", "Stale file handle")
                return await super().manifests(user)

        core = Core.make(config, Half(FakeScheduler()))
        await core.start(user="carol")
        core = await lose_registry(core)
        report = await run(core)
        assert report == RebuildReport(restored=["carol/dev"], skipped=["alice: Stale file handle"])

    asyncio.run(scenario())


def test_a_session_whose_image_is_gone_is_restored_and_says_so_at_its_start(config: Config) -> None:
    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id)
        core = await lose_registry(core)
        Store(config.profiles.stores[0]).delete("base", "1")
        assert (await run(core)).restored == ["alice/dev"]
        with pytest.raises(Exception, match="base"):
            await core.start()
        assert core.row().state is SessionState.STOPPED

    asyncio.run(scenario())


def test_an_old_registry_takes_in_what_is_newer_and_keeps_what_is_not(config: Config) -> None:
    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        first = await core.ready()
        assert first.job.job_id is not None
        core.scheduler.end(first.job.job_id)
        await core.tick()
        old = core.row()
        second = await core.ready()
        core = await lose_registry(core)
        core.registry.create(Session(**old.model_dump()), EventEntry("alice", "start"))
        await core.tick()
        assert len(core.live_jobs(second)) == 1, "a newer job must not be ended by an old registry"
        assert (await run(core)).restored == ["alice/dev"]
        await core.tick()
        assert (core.row().state, core.row().job.job_id, core.row().generation) == (
            SessionState.READY,
            second.job.job_id,
            "2.0",
        )

    asyncio.run(scenario())


def test_a_purged_session_stays_deleted(config: Config) -> None:
    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        session = await core.ready()
        directory = core.launcher.directories["alice", session.id]
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id)
        await core.tick()
        await core.sessions.delete("alice", "dev", purge=True)
        await core.tick()
        core.launcher.directories["alice", session.id] = directory
        assert await run(core) == RebuildReport(restored=[])

    asyncio.run(scenario())


def test_a_deleted_session_can_be_brought_back_although_the_registry_was_lost(config: Config) -> None:
    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        session = await core.stopped()
        core.launcher.volumes.write("alice", session.id, "file", "kept")
        await core.sessions.delete("alice", "dev")
        await core.tick()
        core = await lose_registry(core)
        await core.deleted.gc("alice", dry_run=False)
        assert core.launcher.set_aside, "what the registry does not know may not be removed"
        assert (await run(core)).restored == ["alice/dev (deleted)"]
        assert core.registry.find("alice", "dev") is None
        assert (await core.deleted.restore("alice", "dev", None)).state is SessionState.STOPPED
        assert core.launcher.volumes.read("alice", session.id) == {"file": "kept"}

    asyncio.run(scenario())


@pytest.mark.parametrize("at", ["rollback", "install"])
def test_a_registry_that_is_lost_in_the_middle_of_a_rollback_goes_on_with_it(
    config: Config, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher dies before or after the volumes are changed: the manifest has the requested operation."""

    async def scenario() -> None:
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        session = await core.stopped()
        core.launcher.volumes.write("alice", session.id, "file", "old")
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
        publish(Store(config.profiles.stores[0]), "base", "2", content=b"two")
        await core.container_changes.switch("alice", "dev", SwitchRequest(profile="base", version="2"))
        core.launcher.volumes.write("alice", session.id, "file", "new")
        core.launcher.loses[at] = 1 if at == "rollback" else 2
        monkeypatch.setattr("broker.controller.sessions.pending.ANSWER_TIMEOUT_S", 0.05)  # the rollback does not end
        assert (await core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1"))).version == "2"
        core = await lose_registry(core)
        assert (await run(core)).restored == ["alice/dev"]
        await core.tick()
        row = core.row()
        assert (row.state, row.version) == (SessionState.STOPPED, "1")
        assert core.launcher.volumes.read("alice", session.id) == {"file": "old"}
        assert [each.number for each in await core.snapshots.snapshots("alice", "dev")] == [1, 2, 3]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{root}/{{user}}", ["alice", "bob", "x-berth"]),
        ("{root}/{{user}}/berth", ["alice", "bob", "x-berth"]),
        ("{root}/{{user}}-berth", ["x"]),
        ("{root}/nowhere/{{user}}", []),
    ],
)
def test_users_are_found_by_the_names_of_their_directories(tmp_path: Path, template: str, names: list[str]) -> None:
    root = tmp_path / "data"
    for name in ("alice", "bob", "x-berth"):
        (root / name).mkdir(parents=True)
    config = site_config(tmp_path, storage={"root": template.format(root=root)})
    assert sorted(users_with_data(config)) == names


def test_with_data_in_homes_every_person_is_asked_and_no_system_account() -> None:
    config = Config.model_validate({"storage": {"root": "~/.local/share/berth"}})
    assert {"nobody"} <= set(users_with_data(config))
    assert not {"root", "daemon"} & set(users_with_data(config))
