"""A resize that is refused, withdrawn or lost: the present job finds its files, and continues at its time limit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.job_files import BESIDE_LOCK_WAIT_S, LOCK_WAIT_S
from broker.controller.reconcile.session_files import FIRST_PAUSE_S
from broker.errors import ConflictError, RefusedError
from broker.schema.environments import EnvironmentRequest
from broker.schema.sessions import ContinuationChoice, SessionState
from broker.schema.volumes import CloneRequest
from broker.volumes.live_snapshot import COPY_TIMEOUT_S
from slurm.scheduler import NoAnswer, Refused
from slurm.state import JobState
from tests.fakes.core import Core
from tests.fakes.launcher import RefusingLauncher, SlowLauncher
from tests.unit.controller.reconcile.successors import HOUR
from tests.unit.controller.sessions.resize_scene import MORE, Scene, play

if TYPE_CHECKING:
    from pathlib import Path

    from broker.controller.launcher_client.volumes import SnapshotResult
    from broker.launcher.arguments import CopyArguments
    from broker.schema.sessions import PresentJob
    from profiles.image.store import Image


def submission_of_files(scene: Scene) -> str:
    """Return the line of run/job.env that a requeued job compares with its own submission."""
    files = scene.core.launcher.directories["alice", scene.row.id].files
    (line,) = (line for line in files["job.env"].splitlines() if line.startswith("BERTH_SUBMISSION="))
    return line


async def refuse(scene: Scene) -> None:
    """Slurm refuses the next job."""
    assert isinstance(scene.core.launcher, RefusingLauncher)
    scene.core.launcher.words = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
    with pytest.raises(RefusedError):
        await scene.resize()
    scene.core.launcher.words = ""


async def withdraw(scene: Scene) -> None:
    await scene.resize()
    await scene.core.resize.withdraw("alice", "dev")


async def lose(scene: Scene) -> None:
    """The next job ends before it takes over."""
    scene.core.scheduler.end(await scene.resize(), JobState.FAILED)
    await scene.ticks()


IN_VAIN = [refuse, withdraw, lose]


@pytest.mark.parametrize("give_up", IN_VAIN)
def test_present_job_finds_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give_up: object) -> None:
    async def scenario(scene: Scene) -> None:
        await give_up(scene)  # type: ignore[operator] # one of IN_VAIN
        await scene.core.settle()
        assert submission_of_files(scene) == "BERTH_SUBMISSION=1"
        scene.core.launcher.asked.clear()
        await scene.ticks(3)
        assert scene.keeps()
        assert not [words for words in scene.core.launcher.asked if words.startswith("install")], "once is enough"

    play(tmp_path, monkeypatch, scenario, RefusingLauncher)


def test_successor_that_a_policy_withdraws_leaves_the_files_of_the_present_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.core.policies.set_continuation("alice", "dev", ContinuationChoice(continuation="always"))
        scene.clock.now += HOUR - 500
        await scene.ticks()
        assert submission_of_files(scene) == "BERTH_SUBMISSION=2"
        await scene.core.policies.set_continuation("alice", "dev", ContinuationChoice(continuation="never"))
        await scene.ticks()
        assert submission_of_files(scene) == "BERTH_SUBMISSION=1"

    play(tmp_path, monkeypatch, scenario)


def test_attempt_that_a_withdrawal_overtakes_leaves_the_files_of_the_present_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch of the next job is still running when its resize is withdrawn."""

    async def scenario(scene: Scene) -> None:
        launcher = scene.core.launcher
        assert isinstance(launcher, SlowLauncher)
        launcher.reached.clear()
        launcher.let_go.clear()
        resize = asyncio.create_task(scene.core.resize.resize("alice", "dev", MORE))
        await launcher.reached.wait()
        await scene.core.resize.withdraw("alice", "dev")
        launcher.directories["alice", scene.row.id].files["job.env"] = "BERTH_SUBMISSION=2\n"  # written late
        launcher.let_go.set()
        await resize
        await scene.core.settle()
        assert submission_of_files(scene) == "BERTH_SUBMISSION=1"
        await scene.ticks()
        assert scene.live == {scene.first: JobState.RUNNING}

    play(tmp_path, monkeypatch, scenario, _Prompt)


class _Prompt(SlowLauncher):
    def __init__(self, scheduler: object) -> None:
        super().__init__(scheduler)  # type: ignore[arg-type] # as the class above
        self.let_go.set()


@pytest.mark.parametrize("restarted", [False, True])
def test_failed_restore_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, restarted: bool) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.resize()
        scene.core.launcher.failures["install"] = LauncherError("crashed", "the launcher's child process died")
        await scene.core.resize.withdraw("alice", "dev")
        await scene.ticks()
        assert submission_of_files(scene) == "BERTH_SUBMISSION=2"
        del scene.core.launcher.failures["install"]
        if restarted:
            scene.core.registry.close()
            scene.core = Core.make(scene.core.config, scene.core.launcher)
        else:
            scene.clock.now += FIRST_PAUSE_S
        await scene.ticks()
        assert submission_of_files(scene) == "BERTH_SUBMISSION=1"

    play(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize("give_up", IN_VAIN)
def test_present_job_still_gets_a_successor_at_its_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give_up: object
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.core.policies.set_continuation("alice", "dev", ContinuationChoice(continuation="always"))
        await give_up(scene)  # type: ignore[operator] # one of IN_VAIN
        await scene.ticks()
        assert not scene.row.successor
        scene.clock.now += HOUR - 500
        await scene.ticks()
        row = scene.row
        assert (row.job.job_id, row.resizing, row.options_of(row.successor)) == (scene.first, False, [])
        assert row.next_job_id is not None

    play(tmp_path, monkeypatch, scenario, RefusingLauncher)


@pytest.mark.parametrize("present_job", ["auto", "end"])
def test_clone_of_the_running_session_is_completed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present_job: PresentJob
) -> None:
    async def scenario(scene: Scene) -> None:
        launcher = scene.core.launcher
        launcher.failures["copy"] = LauncherError("gone", "the launcher does not answer")  # so the copy is pending
        clone = asyncio.create_task(scene.core.clones.clone("alice", "dev", CloneRequest(name="two")))
        while scene.core.registry.find("alice", "two") is None:  # noqa: ASYNC110 - the registry has no event for it
            await asyncio.sleep(0)
        successor = await scene.resize(present_job)
        await scene.takes_over()
        await scene.ticks(4)
        assert scene.live[scene.first] is JobState.RUNNING
        assert scene.row.job.cancelled_at is None
        del launcher.failures["copy"]
        scene.clock.now += 600
        await scene.ticks(4)
        await clone
        await scene.ticks()
        assert scene.live.keys() == {successor}

    play(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize("present_job", ["auto", "end"])
def test_clone_requested_just_before_the_cancel_is_completed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present_job: PresentJob
) -> None:
    """The tick has seen no clone, and is about to cancel the job that would make its copy."""

    async def scenario(scene: Scene) -> None:
        launcher, end_notices, requests = scene.core.launcher, scene.core.end_notices, list[asyncio.Task[object]]()
        launcher.failures["copy"] = LauncherError("gone", "the launcher does not answer")  # so the copy is pending
        successor = await scene.resize(present_job)
        write = end_notices.write

        async def clone_first(sessions: object) -> None:
            end_notices.write = write  # type: ignore[method-assign]
            request = CloneRequest(name="two")
            requests.append(asyncio.create_task(scene.core.clones.clone("alice", "dev", request)))
            while scene.core.registry.find("alice", "two") is None:  # noqa: ASYNC110 - the registry has no event for it
                await asyncio.sleep(0)
            del sessions

        end_notices.write = clone_first  # type: ignore[method-assign] # is called just before the cancel
        await scene.takes_over()
        assert len(requests) == 1
        await scene.ticks(2)
        assert scene.live[scene.first] is JobState.RUNNING
        assert not scene.row.takeover_begun
        del launcher.failures["copy"]
        scene.clock.now += 600
        await scene.ticks(4)
        await requests[0]
        await scene.ticks()
        assert scene.live.keys() == {successor}

    play(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize("kind", ["clone", "environment"])
def test_copy_is_refused_once_the_present_job_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        cancel = scene.core.scheduler.cancel

        async def copy_meanwhile(job_id: int) -> None:
            with pytest.raises(ConflictError, match=f"dev is moving to job {successor}"):
                await request_copy(scene, kind)
            await cancel(job_id)

        scene.core.scheduler.cancel = copy_meanwhile  # type: ignore[method-assign]
        await scene.takes_over()
        await scene.ticks()
        assert scene.live == {successor: JobState.RUNNING}

    play(tmp_path, monkeypatch, scenario)


async def request_copy(scene: Scene, kind: str) -> None:
    """Request a clone, or an environment for a batch job, of the present state of the session."""
    if kind == "clone":
        await scene.core.clones.clone("alice", "dev", CloneRequest(name="two"))
    else:
        await scene.core.environments.make("alice", EnvironmentRequest(of="dev"))


@pytest.mark.parametrize("present_job", ["auto", "end"])
def test_environment_of_the_running_session_is_copied_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present_job: PresentJob
) -> None:
    """The copy for a batch job has no row in the registry."""

    async def scenario(scene: Scene) -> None:
        held = HeldCopy(scene)
        making = asyncio.create_task(scene.core.environments.make("alice", EnvironmentRequest(of="dev")))
        await held.reached.wait()
        successor = await scene.resize(present_job)
        await scene.takes_over()
        await scene.ticks(4)
        assert scene.live[scene.first] is JobState.RUNNING
        assert not scene.row.takeover_begun
        held.let_go.set()
        made = await making
        assert [each.id for each in await scene.core.environments.all("alice")] == [made.id]
        await scene.ticks()
        assert scene.live.keys() == {successor}

    play(tmp_path, monkeypatch, scenario)


class HeldCopy:
    """Copies of the running session begin only when `let_go` is set. `reached`: one waits."""

    def __init__(self, scene: Scene) -> None:
        self.reached, self.let_go = asyncio.Event(), asyncio.Event()
        self._copy = scene.core.launcher.copy
        scene.core.launcher.copy = self.copy  # type: ignore[method-assign]

    async def copy(self, user: str, arguments: CopyArguments) -> SnapshotResult:
        self.reached.set()
        await self.let_go.wait()
        return await self._copy(user, arguments)


def test_environment_requested_just_before_the_cancel_is_copied_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tick has seen no copy, and is about to cancel the job that would make it."""

    async def scenario(scene: Scene) -> None:
        held, end_notices, requests = HeldCopy(scene), scene.core.end_notices, list[asyncio.Task[object]]()
        successor = await scene.resize()
        write = end_notices.write

        async def copy_first(sessions: object) -> None:
            end_notices.write = write  # type: ignore[method-assign]
            making = scene.core.environments.make("alice", EnvironmentRequest(of="dev"))
            requests.append(asyncio.create_task(making))
            await held.reached.wait()
            del sessions

        end_notices.write = copy_first  # type: ignore[method-assign] # is called just before the cancel
        await scene.takes_over()
        assert len(requests) == 1
        await scene.ticks(2)
        assert scene.live[scene.first] is JobState.RUNNING
        assert not scene.row.takeover_begun
        held.let_go.set()
        await requests[0]
        await scene.ticks()
        assert scene.live.keys() == {successor}

    play(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize("kind", ["clone", "environment"])
def test_takeover_that_begins_while_a_copy_is_requested_is_postponed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The request has passed its checks; neither the clone's row nor the copy is there when the takeover begins."""

    async def scenario(scene: Scene) -> None:
        await scene.resize()
        images, required, taken = scene.core.images, scene.core.images.require_image, list[bool]()

        async def take_over_meanwhile(user: str, name: str, version: str, digest: str) -> Image:
            monkeypatch.setattr(images, "require_image", required)
            await scene.takes_over()
            taken.append(scene.row.takeover_begun)
            return await required(user, name, version, digest)

        monkeypatch.setattr(images, "require_image", take_over_meanwhile)
        await request_copy(scene, kind)
        assert taken == [False]
        await scene.ticks(4)
        assert scene.first not in scene.live
        if kind == "clone":
            assert scene.core.row("two").state is SessionState.STOPPED

    play(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize(("present_job", "wait"), [("auto", BESIDE_LOCK_WAIT_S), ("end", LOCK_WAIT_S)])
def test_next_job_waits_as_long_as_a_copy_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present_job: PresentJob, wait: int
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.resize(present_job)
        files = scene.core.launcher.directories["alice", scene.row.id].files
        assert f"\nBERTH_LOCK_WAIT={wait}\n" in files["job.env"]

    play(tmp_path, monkeypatch, scenario)
    assert BESIDE_LOCK_WAIT_S >= COPY_TIMEOUT_S


@pytest.mark.parametrize("failure", [NoAnswer("slurmctld does not answer"), Refused("Invalid job id specified")])
def test_stop_does_not_let_a_successor_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """The present job is not cancelled in a tick in which the cancel of its successor has failed."""

    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        await scene.ticks()
        cancel = scene.core.scheduler.cancel

        async def fail(job_id: int) -> None:
            if job_id == successor:
                raise failure
            await cancel(job_id)

        scene.core.scheduler.cancel = fail  # type: ignore[method-assign]
        await scene.core.sessions.stop("alice", "dev")
        await scene.core.tick()
        assert scene.live.keys() == {scene.first, successor}
        scene.core.scheduler.cancel = cancel  # type: ignore[method-assign]
        scene.clock.now += 16
        await scene.ticks(3)
        assert scene.live == {}

    play(tmp_path, monkeypatch, scenario)
