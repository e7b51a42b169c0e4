"""`berth resize` beside the present job: that one ends only when the next one can take over."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from broker.controller.rebuild import rebuild
from broker.controller.reconcile.job_takeover import ENDING_S, begin_takeover, should_begin_takeover
from broker.controller.registry.operation import Operation
from broker.errors import ConflictError, RefusedError
from broker.schema.checks import CheckRequest
from broker.schema.sessions import ContinuationChoice, IdleChoice, SessionState, StartRequest
from broker.schema.volumes import RollbackRequest, SnapshotRequest
from slurm.state import JobState
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher, MumblingLauncher, RefusingLauncher
from tests.fakes.scheduler import FakeScheduler, SilentScheduler
from tests.unit.controller.sessions.resize_scene import MORE, Scene, play

if TYPE_CHECKING:
    from pathlib import Path


def test_present_job_runs_until_the_next_one_can_take_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        assert scene.core.launcher.beside == {2}, "Slurm may start it beside the other one"
        await scene.ticks()
        assert scene.live == {scene.first: JobState.RUNNING, successor: JobState.PENDING}
        scene.core.scheduler.start(successor, "c2")
        await scene.ticks()
        assert scene.live.keys() == {scene.first, successor}, "it runs, but its checks are not over"
        view = await scene.core.sessions.show("alice", "dev")
        assert (view.state, view.job_id, view.beside) == (SessionState.READY, scene.first, True)
        scene.core.waits(scene.row)
        await scene.ticks()
        assert scene.live == {successor: JobState.RUNNING}
        row = scene.row
        assert (row.state, row.job.job_id, row.options) == (SessionState.STARTING, successor, MORE)
        scene.core.announce(row, "c2")
        await scene.ticks()
        assert scene.row.state is SessionState.READY
        former = (await scene.core.sessions.jobs("alice", "dev"))[1]
        assert (former.outcome, former.reason) == ("CANCELLED", "its resources were changed")

    play(tmp_path, monkeypatch, scenario)


def test_words_of_another_run_do_not_end_the_present_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        scene.core.scheduler.start(successor, "c2")
        for said in (":1:waits", ":waits", ":0:wants"):
            scene.core.scheduler.change(successor, comment=f"berth:{scene.row.id}:2{said}")
            await scene.ticks()
        scene.core.scheduler.change(successor, comment=f"berth:{scene.row.id}:1:0:waits")
        await scene.ticks()
        assert scene.live[scene.first] is JobState.RUNNING

    play(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED, JobState.NODE_FAIL])
@pytest.mark.parametrize("runs", [False, True])
def test_session_keeps_its_job_if_the_next_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: JobState, *, runs: bool
) -> None:
    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        if runs:
            scene.core.scheduler.start(successor, "c2")
        await scene.ticks()
        scene.core.scheduler.end(successor, state)
        await scene.ticks()
        assert scene.keeps()
        assert scene.live == {scene.first: JobState.RUNNING}
        told = f"not-resized job {successor} has ended as {state}; the session continues in its present job"
        assert told in await scene.events()
        await files_are_those_of(scene, 1)

    play(tmp_path, monkeypatch, scenario)


async def files_are_those_of(scene: Scene, submission: int) -> None:
    """A job that Slurm requeues finds its own job.env, and a rebuild the options of the session."""
    await scene.core.settle()
    files = scene.core.launcher.directories["alice", scene.row.id].files
    assert f"BERTH_SUBMISSION={submission}\n" in files["job.env"]
    manifest = json.loads(files["manifest.json"])
    assert (manifest["options"], manifest["resize"]) == (scene.row.options, None)


def test_owner_withdraws_the_resize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        manifest = json.loads((await scene.core.launcher.manifests("alice"))[scene.row.id])
        assert (manifest["options"], manifest["resize"]) == (MORE, {"submission": 2, "former": []})
        await scene.ticks()
        view = await scene.core.resize.withdraw("alice", "dev")
        assert (view.job_id, view.resizing, view.beside) == (scene.first, False, False)
        await files_are_those_of(scene, 1)
        await scene.ticks()
        assert scene.keeps()
        assert scene.live == {scene.first: JobState.RUNNING}
        assert f"resize-withdrawn job {successor}" in await scene.events()
        with pytest.raises(ConflictError, match="no resize of dev waits"):
            await scene.core.resize.withdraw("alice", "dev")

    play(tmp_path, monkeypatch, scenario)


def test_resize_cannot_be_withdrawn_once_the_present_job_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        scene.core.registry.update(scene.row.id, lambda _: None)
        cancel = scene.core.scheduler.cancel

        async def withdraw_meanwhile(job_id: int) -> None:
            for refused in (scene.core.resize.withdraw("alice", "dev"), scene.resize()):
                with pytest.raises(ConflictError, match=f"dev is moving to job {successor}"):
                    await refused
            await cancel(job_id)

        scene.core.scheduler.cancel = withdraw_meanwhile  # type: ignore[method-assign] # between intent and act
        await scene.takes_over()
        await scene.ticks()
        assert scene.live == {successor: JobState.RUNNING}

    play(tmp_path, monkeypatch, scenario)


def test_present_job_is_not_cancelled_after_a_withdrawal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has seen that the next job can take over; the resize is withdrawn before it acts."""

    async def scenario(scene: Scene) -> None:
        await scene.resize()
        end_notices = scene.core.end_notices
        write = end_notices.write

        async def withdrawn_first(sessions: object) -> None:
            end_notices.write = write  # type: ignore[method-assign]
            await scene.core.resize.withdraw("alice", "dev")
            del sessions

        end_notices.write = withdrawn_first  # type: ignore[method-assign] # is called just before the cancel
        await scene.takes_over()
        await scene.ticks()
        assert scene.keeps()
        assert scene.live == {scene.first: JobState.RUNNING}

    play(tmp_path, monkeypatch, scenario)


def test_session_continues_with_its_former_resources_if_the_next_job_ends_in_the_takeover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.core.policies.set_continuation("alice", "dev", ContinuationChoice(continuation="never"))
        successor = await scene.resize()
        assert scene.row.resizing, "a policy does not withdraw it"
        cancel = scene.core.scheduler.cancel

        async def both_end(job_id: int) -> None:
            scene.core.scheduler.end(successor, JobState.FAILED)
            await cancel(job_id)

        scene.core.scheduler.cancel = both_end  # type: ignore[method-assign]
        await scene.takes_over()
        scene.core.scheduler.cancel = cancel  # type: ignore[method-assign]
        await scene.ticks()
        await scene.core.settle()
        row = scene.row
        assert (row.state, row.submission, row.options) == (SessionState.QUEUED, 3, [])
        former = (await scene.core.sessions.jobs("alice", "dev"))[-1]
        assert former.reason == f"job {successor} was to take over, and ended before it could"
        assert list(scene.live) == [row.job.job_id]

    play(tmp_path, monkeypatch, scenario)


def test_cancel_that_slurm_does_not_take_leaves_the_session_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The present job lives on long after it was to end, and the next one has ended meanwhile."""

    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()

        async def lost(job_id: int) -> None:
            del job_id

        cancel, scene.core.scheduler.cancel = scene.core.scheduler.cancel, lost  # type: ignore[method-assign]
        await scene.takes_over()
        scene.core.scheduler.end(successor, JobState.FAILED)
        await scene.ticks()
        assert scene.row.takeover_begun
        scene.clock.now += ENDING_S
        await scene.ticks()
        scene.core.scheduler.cancel = cancel  # type: ignore[method-assign]
        await scene.ticks()
        assert scene.keeps()
        assert scene.row.job.cancelled_at is None

    play(tmp_path, monkeypatch, scenario)


def test_stop_cancels_the_next_job_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        await scene.ticks()
        await scene.core.sessions.stop("alice", "dev")
        scene.core.scheduler.asked.clear()
        await scene.ticks(3)
        orders = [words for words in scene.core.scheduler.asked if words.startswith("cancel")]
        assert orders == [f"cancel {successor}", f"cancel {scene.first}"]
        assert (scene.row.state, scene.live) == (SessionState.STOPPED, {})
        assert not (await scene.core.sessions.show("alice", "dev")).resizing

    play(tmp_path, monkeypatch, scenario)


def test_operations_that_end_the_job_are_refused_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        snapshots = scene.core.snapshots
        await snapshots.snapshot("alice", "dev", SnapshotRequest())
        await scene.core.settle()
        successor = await scene.resize()
        requests = (
            lambda: scene.core.container_changes.restart("alice", "dev"),
            lambda: snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")),
            lambda: scene.core.request_checks.check("alice", "dev", CheckRequest(restart=True)),
        )
        for request in requests:
            with pytest.raises(ConflictError, match=f"a resize of dev waits for job {successor}") as refused:
                await request()
            assert refused.value.hint == "`berth resize dev --cancel` keeps the present job; then try again"
        await snapshots.snapshot("alice", "dev", SnapshotRequest())

    play(tmp_path, monkeypatch, scenario)


def test_copy_of_the_running_session_is_completed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        scene.core.scheduler.start(successor, "c2")
        scene.core.waits(scene.row)
        job = scene.core.scheduler.change(successor)
        assert should_begin_takeover(scene.row, job)
        copying = Operation.create("snapshot", "alice", arguments={"label": "", "reason": "", "automatic": False})
        observed = scene.row
        row = scene.core.registry.update(observed.id, lambda _: ({"operation": copying.record()}, None))
        assert not should_begin_takeover(row, job)
        late = scene.core.registry.update(observed.id, begin_takeover(observed, scene.clock.now))
        assert late.job.cancelled_at is None, "nor if the copy begins between the look and the act"

    play(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize("outcome", [JobState.TIMEOUT, JobState.OUT_OF_MEMORY, JobState.CANCELLED])
def test_next_job_takes_over_after_any_end_of_the_present_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: JobState
) -> None:
    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        await scene.ticks()
        scene.core.scheduler.end(scene.first, outcome)
        await scene.ticks()
        row = scene.row
        assert (row.state, row.job.job_id, row.options) == (SessionState.QUEUED, successor, MORE)
        former = (await scene.core.sessions.jobs("alice", "dev"))[1]
        assert former.outcome == outcome
        assert former.reason not in {"", "its resources were changed"}

    play(tmp_path, monkeypatch, scenario)


def test_second_resize_leaves_the_one_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm might refuse the second one, and the first one would be gone."""

    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        await scene.ticks()
        with pytest.raises(ConflictError, match=f"a resize of dev waits for job {successor}") as refused:
            await scene.resize()
        assert refused.value.hint == "`berth resize dev --cancel` keeps the present job; then try again"
        await scene.ticks()
        assert scene.live.keys() == {scene.first, successor}
        assert scene.row.next_job_id == successor
        await scene.core.resize.withdraw("alice", "dev")
        another = await scene.resize()
        await scene.ticks()
        assert scene.live.keys() == {scene.first, another}

    play(tmp_path, monkeypatch, scenario)


def test_repeated_submission_runs_beside_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        launcher = scene.core.launcher
        assert isinstance(launcher, MumblingLauncher)
        launcher.unclear, launcher.queues = True, False
        await scene.core.resize.resize("alice", "dev", MORE)
        launcher.beside.clear()
        launcher.unclear = False
        scene.clock.now += 70
        await scene.ticks()
        await scene.core.settle()
        assert launcher.beside == {2}
        assert scene.row.resizing

    play(tmp_path, monkeypatch, scenario, MumblingLauncher)


def test_refusal_leaves_the_session_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        assert isinstance(scene.core.launcher, RefusingLauncher)
        scene.core.launcher.words = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
        with pytest.raises(RefusedError, match="QOSMaxSubmitJobPerUserLimit"):
            await scene.resize()
        await scene.ticks()
        assert scene.keeps()

    play(tmp_path, monkeypatch, scenario, RefusingLauncher)


def test_outage_of_slurm_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        assert isinstance(scene.core.scheduler, SilentScheduler)
        await scene.resize()
        scene.core.scheduler.silent = True
        await scene.takes_over()
        await scene.ticks()
        assert scene.live[scene.first] is JobState.RUNNING
        scene.core.scheduler.silent = False
        await scene.ticks(3)
        assert scene.first not in scene.live

    play(tmp_path, monkeypatch, scenario, scheduler=_AnswersFirst)


class _AnswersFirst(SilentScheduler):
    silent = False


def test_next_start_is_an_ordinary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.resize()
        await scene.core.sessions.stop("alice", "dev")
        await scene.ticks(3)
        scene.core.launcher.beside.clear()
        await scene.core.start(request=StartRequest())
        assert not scene.core.launcher.beside
        assert scene.row.options == []

    play(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize("runs", [False, True])
def test_rebuilt_registry_knows_that_the_next_job_may_run_beside(tmp_path: Path, *, runs: bool) -> None:
    async def scenario() -> None:
        (tmp_path / "shared/alice").mkdir(parents=True)
        config = site_config(tmp_path, storage={"root": f"{tmp_path}/shared/{{user}}"})
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        first = (await core.ready()).job.job_id
        successor = (await core.resize.resize("alice", "dev", MORE)).next_job_id
        assert first is not None
        assert successor is not None
        await core.policies.set_idle("alice", "dev", IdleChoice(idle="8h"))  # which writes the manifest again
        if runs:
            core.scheduler.start(successor, "c2")
            core.waits(core.row())
        core.registry.close()
        for file in config.state_dir.glob("registry.db*"):
            file.unlink()
        core = Core.make(config, core.launcher)
        await rebuild(core.config, core.registry, core.scheduler, core.launcher)
        row = core.row()
        assert (row.job.job_id, row.options, row.next_job_id, row.options_of(2)) == (first, [], successor, MORE)
        await core.tick()
        assert (first in core.live_jobs(core.row())) is not runs
        await core.tick()
        if runs:
            assert (core.row().job.job_id, core.row().options) == (successor, MORE)
        else:
            assert core.row().state is SessionState.READY
            await core.resize.withdraw("alice", "dev")
            await core.tick()
            assert core.row().options == []
        await core.settle()

    asyncio.run(scenario())
