"""Sessions follow channels: a new version is offered, taken at the next natural restart, and held back if it fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.registry.manifest import Manifest
from broker.errors import ConflictError, InvalidInputError, NotFoundError
from broker.schema.checks import CheckRequest
from broker.schema.sessions import ContinuationChoice, SessionState, StartRequest
from broker.schema.volumes import (
    CloneRequest,
    DiffReport,
    FileChange,
    PackageChange,
    RollbackRequest,
    SwitchRequest,
    UpgradeRequest,
)
from profiles.image.channel_changes import ChannelAuthor, ProfileChannels
from profiles.image.store import Store
from slurm.state import JobState
from tests.fakes.core import Core, publish
from tests.unit.controller.sessions.session_volumes import SNAPSHOT, end_job, read, wait_for_operation, write

if TYPE_CHECKING:
    from broker.controller.registry.models import Session

TEAM = ChannelAuthor("carol", 5.0, "tested")
FAILED = "the check ~/.config/berth/check ended with 1: no compiler"
NOW = UpgradeRequest()


def move(core: Core, version: str, channel: str = "stable", *, extra: str = "") -> None:
    """Publish a version, unless it is there, and let the channel name it."""
    store = Store(Path(core.config.profiles.stores[0]))
    if version not in store.versions("base"):
        publish(store, version=version, content=f"image {version}".encode(), extra=extra)
    ProfileChannels.read(store, "base").promote(version, channel, TEAM)


async def looked(core: Core) -> Session:
    """The session after the controller has compared it with what it follows."""
    await core.upgrade_offers._look()
    return core.row()


async def ready_on_1(core: Core) -> Session:
    move(core, "1")
    await core.ready()
    write(core, "work")
    return await looked(core)


async def offered(core: Core, version: str = "2", **kind: str) -> Session:
    await ready_on_1(core)
    move(core, version, **kind)
    return await looked(core)


async def ticks(core: Core, number: int = 4) -> Session:
    for _ in range(number):
        await core.tick()
    return core.row()


async def stopped(core: Core) -> None:
    await core.sessions.stop("alice", "dev")
    end_job(core)
    assert (await ticks(core, 2)).state is SessionState.STOPPED


async def started_again(core: Core) -> Session:
    await core.sessions.start("alice", "dev", StartRequest())
    return await ticks(core)


async def becomes_ready(core: Core) -> Session:
    session = core.row()
    assert session.job.job_id is not None
    core.scheduler.start(session.job.job_id)
    core.announce(session)
    return await ticks(core, 2)


def has_own(core: Core, monkeypatch: pytest.MonkeyPatch, *packages: str, files: tuple[str, ...] = ()) -> None:
    """Let the session have packages and files of its own."""

    async def diff(*_: Any, **__: Any) -> DiffReport:  # noqa: ANN401 - of no interest
        return DiffReport(
            base="",
            packages=[PackageChange(name=name, after="1") for name in packages],
            files=[FileChange(change="A", volume="system", path=path) for path in files],
        )

    monkeypatch.setattr(core.launcher, "diff", diff)


@pytest.fixture(autouse=True)
def _without_own(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    has_own(core, monkeypatch)


def job_env(core: Core) -> str:
    return core.launcher.directories["alice", core.row().id].files["job.env"]


def events(core: Core, action: str) -> list[str]:
    return [each.detail for each in core.registry.events_of("alice", core.row().id) if each.action == action]


@pytest.mark.parametrize(
    ("version", "follow"), [(None, "stable"), ("stable", "stable"), ("candidate", "candidate"), ("1", "1")]
)
def test_new_session_follows_what_it_was_started_as(core: Core, version: str | None, follow: str) -> None:
    async def scenario() -> None:
        move(core, "1")
        move(core, "2", "candidate")
        await core.start(request=StartRequest(profile="base", version=version))
        assert core.row().follow == follow
        assert core.row().view().follow == follow

    asyncio.run(scenario())


def test_running_session_is_offered_the_version_and_stays_as_it_is(core: Core) -> None:
    async def scenario() -> None:
        before = await ready_on_1(core)
        move(core, "2")
        session = await looked(core)
        view = session.view()
        assert (session.state, session.version, session.job.job_id) == (SessionState.READY, "1", before.job.job_id)
        assert view.offer is not None
        assert (view.offer.version, view.offer.obstacle) == ("2", "")
        assert events(core, "offered") == ["base@2, at its next start"]
        await ticks(core)
        await looked(core)
        assert core.row().version == "1"
        assert len(events(core, "offered")) == 1
        assert (
            "notice=base@2 is taken at the next start\n"
            in core.launcher.directories["alice", session.id].files["remark"]
        )

    asyncio.run(scenario())


def test_newer_version_without_a_channel_is_not_offered(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        publish(Store(Path(core.config.profiles.stores[0])), version="2", content=b"2")
        assert (await looked(core)).offer is None

    asyncio.run(scenario())


def test_stop_and_start_takes_it_with_a_snapshot_and_checks(core: Core) -> None:
    async def scenario() -> None:
        await offered(core)
        await stopped(core)
        session = await started_again(core)
        assert (session.version, session.follow, session.offer) == ("2", "stable", None)
        assert (session.state, read(core)) == (SessionState.QUEUED, "work")
        assert "BERTH_CHECKS=yes\n" in job_env(core)
        assert "BERTH_READY_LIMIT=600\n" in job_env(core)
        operation = session.view().operation
        assert operation is not None
        assert (operation.verb, operation.status, operation.undo) == ("upgrade", "done", "berth rollback dev 1")
        assert (await becomes_ready(core)).state is SessionState.READY

    asyncio.run(scenario())


def test_offer_that_moves_while_it_is_stopped_is_the_one_that_is_taken(core: Core) -> None:
    async def scenario() -> None:
        await offered(core)
        await stopped(core)
        move(core, "3")  # the controller has not looked since
        assert (await started_again(core)).version == "3"
        await becomes_ready(core)
        await stopped(core)
        move(core, "1")
        assert (await started_again(core)).version == "1"

    asyncio.run(scenario())


def test_checks_of_the_profile_run_with_their_time(core: Core) -> None:
    async def scenario() -> None:
        checks = "checks: [{name: one, command: test -e /opt, time_limit: 90s}, {name: two, command: 'true'}]\n"
        await offered(core, extra=checks)
        await stopped(core)
        session = await started_again(core)
        files = core.launcher.directories["alice", session.id].files
        assert files["checks"] == "90 any one test -e /opt\n60 any two true\n"
        assert "BERTH_READY_LIMIT=750\n" in job_env(core)

    asyncio.run(scenario())


def test_failed_check_returns_it_and_holds_the_version_back(core: Core) -> None:
    async def scenario() -> None:
        await offered(core)
        await stopped(core)
        session = await started_again(core)
        core.scheduler.start(session.job.job_id or 0)
        await ticks(core, 1)
        core.fail_to_start(core.row(), FAILED)
        session = await ticks(core, 6)
        assert (session.version, session.state, read(core)) == ("1", SessionState.STARTING, "work")
        core.announce(session)
        session = await ticks(core, 2)
        view = session.view()
        assert (view.state, view.version, view.follow) == (SessionState.READY, "1", "stable")
        text = core.launcher.directories["alice", session.id].files["manifest.json"]
        restored = Manifest.model_validate_json(text).session()
        assert (restored.follow, restored.held_versions) == ("stable", session.held_versions)
        assert restored.held_versions[0]["reason"] == FAILED
        assert view.offer is not None
        assert view.offer.obstacle == f"held back: {FAILED}"
        assert FAILED in (view.operation.message if view.operation else "")
        assert FAILED in events(core, "upgrade-undone")[0]
        assert "BERTH_CHECKS" not in job_env(core)
        assert (await looked(core)).view().offer == view.offer
        await stopped(core)
        assert (await started_again(core)).version == "1"
        move(core, "3")
        await becomes_ready(core)
        assert (await looked(core)).view().offer.obstacle == ""  # type: ignore[union-attr]

    asyncio.run(scenario())


def test_version_is_tried_until_a_run_has_proved_it(core: Core) -> None:
    """The job of the first run ends for another reason, before the session was ready."""

    async def scenario() -> None:
        await offered(core)
        await stopped(core)
        session = await started_again(core)
        end_job(core, JobState.NODE_FAIL)
        await ticks(core, 2)
        assert core.row().state in {SessionState.STOPPED, SessionState.FAILED}
        session = await started_again(core)
        assert (session.version, "BERTH_CHECKS=yes\n" in job_env(core)) == ("2", True)
        await becomes_ready(core)
        await stopped(core)
        await started_again(core)
        assert "BERTH_CHECKS" not in job_env(core)

    asyncio.run(scenario())


def test_job_at_its_time_limit_is_followed_by_one_with_the_version(core: Core) -> None:
    async def scenario() -> None:
        await ready_on_1(core)
        await core.policies.set_continuation("alice", "dev", ContinuationChoice(continuation="always"))
        move(core, "2")
        await looked(core)
        end_job(core, JobState.TIMEOUT)
        session = await ticks(core)
        assert (session.version, session.state) == ("2", SessionState.QUEUED)
        assert "BERTH_CHECKS=yes\n" in job_env(core)

    asyncio.run(scenario())


def test_restart_takes_it_in_the_same_job(core: Core) -> None:
    async def scenario() -> None:
        before = await offered(core)
        await wait_for_operation(core, core.container_changes.restart("alice", "dev"))
        session = await ticks(core)
        assert (session.version, session.job.job_id) == ("2", before.job.job_id)

    asyncio.run(scenario())


def test_upgrade_takes_it_now(core: Core) -> None:
    async def scenario() -> None:
        before = await offered(core)
        report = await core.request_checks.check("alice", "dev", CheckRequest(upgrade=NOW, estimate=False))
        assert (report.ends_job, report.keeps_job) == (True, True)
        await wait_for_operation(core, core.upgrades.upgrade("alice", "dev", NOW))
        session = await ticks(core)
        assert (session.version, session.job.job_id) == ("2", before.job.job_id)
        with pytest.raises(ConflictError, match="no other version is offered"):
            await core.upgrades.upgrade("alice", "dev", NOW)

    asyncio.run(scenario())


def test_own_packages_keep_it_until_its_owner_leaves_them_behind(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await offered(core)
        has_own(core, monkeypatch, "htop", "jq", files=("opt/tool",))
        await stopped(core)
        session = await started_again(core)
        assert (session.version, session.state, read(core)) == ("1", SessionState.QUEUED, "work")
        offer = session.view().offer
        assert offer is not None
        assert (offer.version, offer.packages, offer.files) == ("2", ["htop", "jq"], ["/opt/tool"])
        assert "packages of its own (htop, jq) and files outside the home (/opt/tool)" in offer.obstacle
        assert (await looked(core)).view().offer == offer
        await becomes_ready(core)
        with pytest.raises(ConflictError, match="htop"):
            await wait_for_operation(core, core.upgrades.upgrade("alice", "dev", NOW))
        assert core.row().version == "1"
        await ticks(core)
        await becomes_ready(core)
        await wait_for_operation(core, core.upgrades.upgrade("alice", "dev", UpgradeRequest(fresh=True)))
        assert (await ticks(core)).version == "2"

    asyncio.run(scenario())


def test_version_that_refuses_the_choices_of_the_session_is_not_taken(core: Core) -> None:
    async def scenario() -> None:
        await offered(core, extra="binds: [{source: /not/allowed}]\n")
        await stopped(core)
        session = await started_again(core)
        assert session.version == "1"
        offer = session.view().offer
        assert offer is not None
        assert "/not/allowed" in offer.obstacle

    asyncio.run(scenario())


def test_follow_is_changed_and_survives_in_the_manifest(core: Core) -> None:
    async def scenario() -> None:
        await ready_on_1(core)
        move(core, "2", "candidate")
        view = await core.upgrades.set_follow("alice", "dev", "candidate")
        assert (view.follow, view.offer is not None and view.offer.version) == ("candidate", "2")
        text = core.launcher.directories["alice", core.row().id].files["manifest.json"]
        assert Manifest.model_validate_json(text).session().follow == "candidate"
        view = await core.upgrades.set_follow("alice", "dev", None)
        assert (view.follow, view.offer) == ("", None)
        with pytest.raises(ConflictError, match="follows no channel"):
            await core.upgrades.upgrade("alice", "dev", NOW)

    asyncio.run(scenario())


@pytest.mark.parametrize(("follow", "error"), [("previous", InvalidInputError), ("9", NotFoundError)])
def test_bad_choices_change_nothing(core: Core, follow: str, error: type[Exception]) -> None:
    async def scenario() -> None:
        await offered(core)
        before = core.row()
        with pytest.raises(error):
            await core.upgrades.set_follow("alice", "dev", follow)
        assert (core.row().follow, core.row().offer, core.row().revision) == ("stable", before.offer, before.revision)

    asyncio.run(scenario())


def test_rollback_to_the_former_version_holds_the_new_one_back(core: Core) -> None:
    async def scenario() -> None:
        await offered(core)
        await wait_for_operation(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))
        await wait_for_operation(core, core.upgrades.upgrade("alice", "dev", NOW))
        await ticks(core)
        await becomes_ready(core)
        await wait_for_operation(core, core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")))
        session = await ticks(core)
        assert (session.version, session.follow) == ("1", "stable")
        offer = (await looked(core)).view().offer
        assert offer is not None
        assert offer.obstacle == "held back: you went back to snapshot 1"

    asyncio.run(scenario())


def test_switch_and_clone_follow_what_they_name(core: Core) -> None:
    async def scenario() -> None:
        await ready_on_1(core)
        move(core, "2", "candidate")
        await wait_for_operation(
            core, core.container_changes.switch("alice", "dev", SwitchRequest(profile="base", version="candidate"))
        )
        session = await ticks(core)
        assert (session.version, session.follow) == ("2", "candidate")
        await becomes_ready(core)
        await wait_for_operation(core, core.clones.clone("alice", "dev", CloneRequest(name="two")))
        await wait_for_operation(
            core, core.clones.clone("alice", "dev", CloneRequest(name="three", profile="base", version="1"))
        )
        assert [core.row(name).follow for name in ("two", "three")] == ["candidate", "1"]

    asyncio.run(scenario())
