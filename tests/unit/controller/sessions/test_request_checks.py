"""Checks of requests: the same refusals as the requests themselves, no change, and Slurm's estimate of the start."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.launcher_client.answers import EstimateAnswer
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.held_jobs import LEAST_LEFT_S
from broker.controller.sessions import start_estimates
from broker.errors import BerthError, ConflictError, NotFoundError, RefusedError
from broker.schema.checks import CheckReport, CheckRequest
from broker.schema.sessions import Persistence, ResizeRequest, SessionState, StartRequest
from broker.schema.volumes import CloneRequest, RollbackRequest, SnapshotRequest, SwitchRequest
from profiles.image.store import Store
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Core, publish, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler, SilentScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from broker.controller.registry.models import Session

GPU = StartRequest(profile="base", options=["--gres=gpu:intel:1"])
WRONG_OPTION = "resources: {gpuss: 1}\n"
FORBIDDEN_BIND = "binds: [{source: /forbidden}]\n"


def play(
    tmp_path: Path,
    scenario: Callable[[Core], Awaitable[None]],
    scheduler: type[FakeScheduler] = FakeScheduler,
    **settings: object,
) -> None:
    async def scene() -> None:
        core = Core.make(site_config(tmp_path, **settings), FakeLauncher(scheduler()))
        await scenario(core)
        await core.settle()

    asyncio.run(scene())


async def check(core: Core, **request: Any) -> CheckReport:  # noqa: ANN401 - fields of several types
    """Check a request for dev, and that this changes nothing."""
    before = core.row()
    asked = list(core.launcher.asked)
    try:
        return await core.request_checks.check("alice", "dev", CheckRequest.model_validate(request))
    finally:
        assert core.row().revision == before.revision
        assert {word.split()[0] for word in core.launcher.asked[len(asked) :]} <= {"estimate", "snapshots", "own_image"}
        assert not any(word.startswith("cancel") for word in core.scheduler.asked)


@pytest.mark.parametrize(
    ("request_fields", "error", "says"),
    [
        ({"rollback": {"snapshot": "nosuch"}}, NotFoundError, "dev has no snapshot nosuch"),
        ({"delete_snapshot": "nosuch"}, NotFoundError, "dev has no snapshot nosuch"),
        ({"switch": {"profile": "nosuch"}}, NotFoundError, "no profile is called nosuch"),
        ({"switch": {"profile": "base"}}, ConflictError, "dev is on base@1 already"),
        ({"switch": {"profile": "wrong"}}, RefusedError, "wrong@1 has a wrong option in its `resources`: --gpuss"),
        ({"switch": {"profile": "bound"}}, RefusedError, "the profile binds /forbidden"),
        ({"resize": {"options": ["--job-name=x"]}}, BerthError, "--job-name cannot be used for a session"),
        ({"delete": True}, ConflictError, "dev cannot be deleted while it is ready"),
    ],
)
def test_ready_session_is_asked_nothing_that_cannot_be_done(
    tmp_path: Path, request_fields: dict[str, Any], error: type[BerthError], says: str
) -> None:
    async def scenario(core: Core) -> None:
        publish(Store(tmp_path / "store"), "wrong", extra=WRONG_OPTION)
        publish(Store(tmp_path / "store"), "bound", extra=FORBIDDEN_BIND)
        await core.ready()
        with pytest.raises(error, match=says):
            await check(core, **request_fields)

    play(tmp_path, scenario)


@pytest.mark.parametrize("name", ["wrong", "bound"])
def test_switch_to_a_profile_that_cannot_start_ends_nothing(tmp_path: Path, name: str) -> None:
    async def scenario(core: Core) -> None:
        publish(Store(tmp_path / "store"), name, extra={"wrong": WRONG_OPTION, "bound": FORBIDDEN_BIND}[name])
        await core.ready()
        with pytest.raises(RefusedError):
            await core.container_changes.switch("alice", "dev", SwitchRequest(profile=name))
        assert (core.row().state, core.row().pending) == (SessionState.READY, None)
        with pytest.raises(RefusedError):
            await core.clones.clone("alice", "dev", CloneRequest(name="two", profile=name, start=True))
        assert core.registry.find("alice", "two") is None

    play(tmp_path, scenario)


@pytest.mark.parametrize("request_fields", [{"root": True}, {"restart": True}, {"rollback": {"snapshot": "1"}}])
def test_missing_image_is_found_before_the_job_ends(tmp_path: Path, request_fields: dict[str, Any]) -> None:
    async def scenario(core: Core) -> None:
        await core.ready()
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
        await core.settle()
        Store(tmp_path / "store").delete("base", "1")
        with pytest.raises(RefusedError, match="the image base@1 is not available"):
            await check(core, **request_fields)
        if "root" in request_fields:
            with pytest.raises(RefusedError):
                await core.container_changes.root("alice", "dev")
            assert core.row().state is SessionState.READY

    play(tmp_path, scenario)


def test_restart_is_refused_at_the_limit_of_starts(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        await core.ready()
        with pytest.raises(RefusedError, match="limit of starts within an hour reached"):
            await check(core, restart=True)

    play(tmp_path, scenario, limits={"starts_per_hour": 1})


def test_restarted_session_does_not_count_beside_itself(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        await ready_with_gpu(core)
        assert (await check(core, restart=True)).ends_job

    play(tmp_path, scenario, limits={"gpu_sessions": 1})


@pytest.mark.parametrize(
    ("request_fields", "options"),
    [
        ({"rollback": {"snapshot": "1"}}, "--mem=1G --gres=gpu:intel:1"),
        ({"switch": {"profile": "big"}}, "--mem=9G --gres=gpu:intel:1"),
        ({"resize": {"options": ["--gres=none", "--mem=2G"]}}, "--gres=none --mem=2G"),
        ({"root": True}, "--mem=1G --gres=gpu:intel:1"),
        ({"restart": True}, "--mem=1G --gres=gpu:intel:1"),
    ],
)
def test_slurm_is_asked_about_the_next_job(tmp_path: Path, request_fields: dict[str, Any], options: str) -> None:
    async def scenario(core: Core) -> None:
        publish(Store(tmp_path / "store"), "big", extra="resources: {mem: 9G}\n")
        session = await ready_with_gpu(core)
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
        await core.settle()
        await near_its_time_limit(core)
        core.launcher.estimated = EstimateAnswer(start_at=5000.0, refusal="")
        others = [core.scheduler.submit("other", user="bob"), core.scheduler.submit("held", held=True)]
        report = await check(core, **request_fields)
        assert (report.session.id, report.ends_job) == (session.id, True)
        assert report.estimate is not None
        assert (report.estimate.at, report.estimate.waiting) == (5000.0, 1), others
        assert core.launcher.asked[-1] == f"estimate alice {options}"
        silent = await check(core, **request_fields, estimate=False)
        assert (silent.ends_job, silent.estimate) == (True, None)

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("request_fields", "keeps"),
    [
        ({"rollback": {"snapshot": "1"}}, True),
        ({"switch": {"profile": "like"}}, True),
        ({"switch": {"profile": "big"}}, False),
        ({"resize": {"options": ["--mem=2G"]}}, False),
        ({"root": True}, True),
        ({"restart": True}, True),
    ],
)
def test_job_is_kept_if_the_next_one_would_have_its_resources(
    tmp_path: Path, request_fields: dict[str, Any], keeps: bool
) -> None:
    async def scenario(core: Core) -> None:
        publish(Store(tmp_path / "store"), "like", content=b"like")
        publish(Store(tmp_path / "store"), "big", extra="resources: {mem: 9G}\n")
        await core.ready()
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
        await core.settle()
        asked = len(core.launcher.asked)
        report = await check(core, **request_fields)
        assert (report.ends_job, report.keeps_job) == (True, keeps)
        estimates = [words for words in core.launcher.asked[asked:] if words.startswith("estimate ")]
        assert (estimates == []) == keeps, "nobody waits for a job that is kept"

    play(tmp_path, scenario)


def test_many_checks_share_one_query(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        await core.ready()
        await near_its_time_limit(core)
        await asyncio.gather(*(check(core, restart=True) for _ in range(20)))
        assert core.scheduler.asked.count("queue") == 1

    play(tmp_path, scenario)


def test_own_waiting_job_is_not_counted(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        await core.start()
        report = await check(core, restart=True)
        assert report.estimate is not None
        assert report.estimate.waiting == 0

    play(tmp_path, scenario)


@pytest.mark.parametrize("request_fields", [{"rollback": {"snapshot": "1"}}, {"restart": True}, {"delete": True}])
def test_session_without_a_job_needs_no_estimate(tmp_path: Path, request_fields: dict[str, Any]) -> None:
    async def scenario(core: Core) -> None:
        await core.stopped()
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
        await core.settle()
        report = await check(core, **request_fields)
        assert (report.ends_job, report.estimate) == (False, None)

    play(tmp_path, scenario)


def test_without_slurms_answer_there_is_no_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core) -> None:
        await core.ready()
        await near_its_time_limit(core)
        core.launcher.failures["estimate"] = LauncherError("unclear", "sbatch did not exit within 4 s")
        assert (await check(core, restart=True)).estimate is None
        del core.launcher.failures["estimate"]
        core.launcher.hangs["estimate"] = "before"
        monkeypatch.setattr(start_estimates, "ESTIMATE_TIMEOUT_S", 0.05)
        monkeypatch.setattr(start_estimates, "LAUNCHER_MARGIN_S", 0.0)
        began = time.monotonic()
        assert (await check(core, restart=True)).estimate is None
        assert time.monotonic() - began < DEADLINE_S

    play(tmp_path, scenario)


def test_silent_slurmctld_leaves_the_number_of_waiting_jobs_open(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        assert isinstance(core.scheduler, SilentScheduler)
        core.scheduler.silent = False
        await core.ready()
        await near_its_time_limit(core)
        core.scheduler.silent = True
        report = await check(core, restart=True)
        assert report.estimate is not None
        assert report.estimate.waiting is None

    play(tmp_path, scenario, scheduler=SilentScheduler)


def test_another_user_learns_nothing_of_the_session(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        await core.ready()
        for request in (CheckRequest(restart=True), CheckRequest(rollback=RollbackRequest(snapshot="1"))):
            with pytest.raises(NotFoundError, match="you have no session named dev"):
                await core.request_checks.check("bob", "dev", request)
        resize = CheckRequest(resize=ResizeRequest(options=["--mem=2G"]))
        with pytest.raises(NotFoundError):
            await core.request_checks.check("bob", "dev", resize)

    play(tmp_path, scenario)


async def near_its_time_limit(core: Core) -> None:
    """The session's job cannot be kept any more."""
    core.scheduler.change(1, ends_at=time.time() + LEAST_LEFT_S - 10)
    await core.tick()


def test_check_of_a_switch_previews_image_options_and_persistence(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        big = "description: More memory\nresources: {mem: 9G}\npersistence: {system: fresh}\n"
        publish(Store(tmp_path / "store"), "big", extra=big)
        await core.start(request=GPU)
        switch = {"profile": "big"}
        preview = (await check(core, switch=switch)).switch
        assert preview is not None
        assert (preview.profile, preview.version, preview.description) == ("big", "1", "More memory")
        assert preview.options == ["--mem=9G", "--gres=gpu:intel:1"]
        assert preview.present_options == ["--mem=1G", "--gres=gpu:intel:1"]
        assert preview.persistence == Persistence(system="fresh")
        chosen = Persistence(home="fresh")
        preview = (await check(core, switch=switch | {"persistence": chosen.model_dump()})).switch
        assert preview is not None
        assert preview.persistence == chosen
        assert (await check(core, restart=True)).switch is None
        Store(tmp_path / "store").delete("base", "1")
        preview = (await check(core, switch=switch)).switch
        assert preview is not None
        assert preview.present_options is None

    play(tmp_path, scenario)


def test_preview_of_a_switch_keeps_the_owners_persistence(tmp_path: Path) -> None:
    async def scenario(core: Core) -> None:
        publish(Store(tmp_path / "store"), "big", extra="persistence: {system: fresh}\n")
        await core.start(request=GPU.model_copy(update={"persistence": Persistence(keep=["/opt/x"], system="fresh")}))
        preview = (await check(core, switch={"profile": "big"})).switch
        assert preview is not None
        assert preview.persistence == Persistence(keep=["/opt/x"], system="fresh")

    play(tmp_path, scenario)


async def ready_with_gpu(core: Core) -> Session:
    await core.start(request=GPU)
    job = core.row().job.job_id
    assert job is not None
    core.scheduler.start(job)
    core.announce(core.row())
    await core.tick()
    return core.row()
