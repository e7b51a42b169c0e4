"""The choice of a resize to keep the present job: by the request, and by Slurm's expectation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.answers import EstimateAnswer
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.sessions.start_estimates import LEAST_BESIDE_S, UNLIMITED_S
from broker.errors import ConflictError
from broker.schema.checks import CheckRequest
from broker.schema.sessions import ResizeRequest
from tests.unit.controller.sessions.resize_scene import MORE, Scene, play

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("left", "beside"), [(LEAST_BESIDE_S + 60, True), (LEAST_BESIDE_S - 60, False), (-3600.0, False), (None, False)]
)
def test_slurms_expectation_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float | None, *, beside: bool
) -> None:
    """`left`: the seconds of the present job at the expected start of the next one; None if Slurm does not start it."""

    async def scenario(scene: Scene) -> None:
        ends_at = scene.row.job.ends_at
        assert ends_at is not None
        at = None if left is None else ends_at - left
        scene.core.launcher.estimated = EstimateAnswer(start_at=at, refusal="" if at else "busy")
        request = CheckRequest(resize=ResizeRequest(options=MORE))
        report = await scene.core.request_checks.check("alice", "dev", request)
        assert (report.beside, report.ends_job) == (beside, True)
        if not beside:
            with pytest.raises(ConflictError, match="does not expect to start the new job beside") as refused:
                await scene.resize("keep")
            assert refused.value.hint == "`berth resize dev --end-first --mem=2G` ends the present job first"
            assert scene.keeps()
        await scene.resize()
        assert (await scene.core.sessions.show("alice", "dev")).beside is beside

    play(tmp_path, monkeypatch, scenario)


def test_present_job_ends_first_on_request_and_without_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        request = CheckRequest(resize=ResizeRequest(options=MORE, present_job="end"))
        assert not (await scene.core.request_checks.check("alice", "dev", request)).beside
        scene.core.launcher.failures["estimate"] = LauncherError("unclear", "sbatch did not exit")
        with pytest.raises(ConflictError):
            await scene.resize("keep")
        await scene.resize()
        assert not scene.row.next_job.beside  # type: ignore[union-attr]
        await scene.ticks()
        assert scene.first not in scene.live

    play(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize(("after", "beside"), [(3600.0, True), (UNLIMITED_S + 3600, False)])
def test_job_without_a_time_limit_may_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float, *, beside: bool
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.core.scheduler.change(scene.first, ends_at=None)
        await scene.ticks()
        scene.core.launcher.estimated = EstimateAnswer(start_at=scene.clock.now + after, refusal="")
        request = CheckRequest(resize=ResizeRequest(options=MORE))
        assert (await scene.core.request_checks.check("alice", "dev", request)).beside is beside

    play(tmp_path, monkeypatch, scenario)


def test_reason_of_the_wait_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        successor = await scene.resize()
        scene.core.scheduler.change(successor, reason="QOSMaxJobsPerUserLimit")
        await scene.ticks()
        view = await scene.core.sessions.show("alice", "dev")
        assert view.next_job_reason == "QOSMaxJobsPerUserLimit"

    play(tmp_path, monkeypatch, scenario)
