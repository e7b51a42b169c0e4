"""`berth resize`: the next job has other resources, and the present one ends once that is in the queue."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from broker.controller.registry.operation import Operation
from broker.errors import BerthError, ConflictError, ExitCode, InvalidInputError, RefusedError
from broker.schema.checks import CheckReport, CheckRequest
from broker.schema.sessions import ResizeRequest, SessionState, StartRequest
from broker.text.advice import next_step
from broker.text.question import describe_plan
from broker.text.status import describe_resize
from slurm.state import JobState
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ScriptedController, ready, view
from tests.fakes.core import BASE, Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher, MumblingLauncher, RefusingLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

GPU = StartRequest(profile="base", options=["--gres=gpu:intel:1", "--mem=2G"])
WITHOUT = ["--gres=none"]


def play(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[Core, Clock], Awaitable[None]],
    launcher: type[FakeLauncher] = FakeLauncher,
    **settings: object,
) -> None:
    clock = Clock().install(monkeypatch)

    async def scene() -> None:
        core = Core.make(site_config(tmp_path, **settings), launcher(FakeScheduler(now=clock.time)))
        await scenario(core, clock)
        await core.settle()

    asyncio.run(scene())


async def with_gpu(core: Core) -> int:
    """The session dev, ready with a GPU; its job."""
    await core.start(request=GPU)
    session = core.row()
    assert session.job.job_id is not None
    core.scheduler.start(session.job.job_id)
    core.announce(session)
    await core.tick()
    return session.job.job_id


def test_it_goes_on_without_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        first = await with_gpu(core)
        clock.now += 3600
        told = await core.resize.resize("alice", "dev", WITHOUT, "end")
        assert (told.state, told.job_id, told.resizing) == (SessionState.READY, first, True)
        assert "--gres=none" in core.launcher.asked[-1]
        assert "--gres=gpu:intel:1" not in core.launcher.asked[-1]
        await core.tick()  # sees the next job in the queue and ends the first one
        await core.tick()  # sees that end
        row = core.row()
        assert row.job.job_id != first
        assert (row.state, row.options, row.job.gpus, row.resizing) == (
            SessionState.QUEUED,
            ["--mem=2G", "--gres=none"],
            0.0,
            False,
        )
        assert list(core.live_jobs(row)) == [row.job.job_id]
        jobs = await core.sessions.jobs("alice", "dev")
        assert [(job.gpus, job.outcome, job.reason) for job in jobs] == [
            (0.0, "", ""),
            (1.0, "CANCELLED", "its resources were changed"),
        ]
        manifest = json.loads((await core.launcher.manifests("alice"))[row.id])
        assert manifest["options"] == row.options

    play(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize("options", [["--mem=2G"], ["--gres=gpu:intel:1", "--mem=2G"], ["--cpus-per-task=2"]])
def test_resources_that_the_job_has_already_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        del clock
        first = await with_gpu(core)
        before, asked = core.row(), list(core.launcher.asked)
        for estimate in (False, True):
            resize = ResizeRequest(options=options, present_job="keep")
            report = await core.request_checks.check("alice", "dev", CheckRequest(resize=resize, estimate=estimate))
            assert (report.unchanged, report.ends_job, report.estimate) == (True, False, None)
            assert describe_plan(report, "is resized", 0.0) == [
                "dev: has these resources already; nothing would change"
            ]
        told = await core.resize.resize("alice", "dev", options, "end")
        assert (told.state, told.job_id, told.resizing) == (SessionState.READY, first, False)
        assert (core.row(), core.launcher.asked) == (before, asked)

    play(tmp_path, monkeypatch, scenario, slurm={"options": ["--cpus-per-task=2"]})


def test_session_without_gpu_can_release_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        del clock
        before = await core.ready()
        assert not (await core.resize.resize("alice", "dev", WITHOUT, "end")).resizing
        assert core.row() == before

    play(tmp_path, monkeypatch, scenario)


def test_new_time_limit_needs_a_new_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        del clock
        await with_gpu(core)
        told = await core.resize.resize("alice", "dev", ["--time=60"], "end")
        assert told.resizing

    play(tmp_path, monkeypatch, scenario, slurm={"options": ["--time=60"]})


def test_its_gpu_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        await core.ready()
        clock.now += 3600
        await core.resize.resize("alice", "dev", ["--gres=gpu:intel:1"], "end")
        assert core.row().job.gpus == 0.0
        await core.tick()
        await core.tick()
        assert core.row().job.gpus == 1.0
        jobs = await core.sessions.jobs("alice", "dev")
        assert [job.gpus for job in jobs] == [1.0, 0.0]

    play(tmp_path, monkeypatch, scenario)


def test_what_slurm_refuses_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        del clock
        assert isinstance(core.launcher, RefusingLauncher)
        core.launcher.words = ""
        first = await with_gpu(core)
        core.launcher.words = "sbatch: error: invalid gres"
        with pytest.raises(RefusedError, match="invalid gres") as failure:
            await core.resize.resize("alice", "dev", ["--gres=gpu:other:1"])
        assert failure.value.hint == (
            "dev continues in its present job; change the options and resize it again; "
            "`berth cluster` shows the largest request"
        )
        await core.tick()
        await core.tick()
        row = core.row()
        assert (row.state, row.job.job_id, row.options, row.resizing) == (SessionState.READY, first, GPU.options, False)
        assert core.live_jobs(row) == {first: JobState.RUNNING}

    play(tmp_path, monkeypatch, scenario, RefusingLauncher)


def test_an_answer_that_is_unclear_ends_nothing_until_the_job_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        assert isinstance(core.launcher, MumblingLauncher)
        core.launcher.unclear = False
        first = await with_gpu(core)
        core.launcher.unclear, core.launcher.queues = True, False
        told = await core.resize.resize("alice", "dev", WITHOUT, "end")
        assert told.resizing
        await core.tick()
        assert core.live_jobs(core.row()) == {first: JobState.RUNNING}
        core.launcher.deliver()
        clock.now += 1
        await core.tick()
        await core.tick()
        row = core.row()
        assert row.job.job_id != first
        assert len(core.live_jobs(row)) == 1

    play(tmp_path, monkeypatch, scenario, MumblingLauncher)


def test_somebody_cancels_the_next_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        del clock
        first = await with_gpu(core)
        told = await core.resize.resize("alice", "dev", WITHOUT, "end")
        assert told.next_job_id is not None
        core.scheduler.end(told.next_job_id, JobState.CANCELLED)
        await core.tick()
        await core.tick()
        row = core.row()
        assert (row.state, row.job.job_id, row.options, row.resizing) == (SessionState.READY, first, GPU.options, False)

    play(tmp_path, monkeypatch, scenario)


def test_a_stop_in_between_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        del clock
        await with_gpu(core)
        await core.resize.resize("alice", "dev", WITHOUT, "end")
        await core.sessions.stop("alice", "dev")
        for _ in range(3):
            await core.tick()
        row = core.row()
        assert (row.state, core.live_jobs(row)) == (SessionState.STOPPED, {})
        await core.start(request=StartRequest())
        assert core.row().resizing is False

    play(tmp_path, monkeypatch, scenario)


def test_a_refused_resize_names_what_can_be_done_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        del clock
        await core.stopped()
        with pytest.raises(ConflictError, match="dev is stopped") as failure:
            await core.resize.resize("alice", "dev", ["--gres=none"])
        assert failure.value.hint == "`berth start dev --gres=none` starts it with these options"
        session = await core.ready()
        operation = Operation.create("snapshot", "alice", arguments={"label": "", "reason": "", "automatic": False})
        core.registry.update(session.id, lambda _: ({"operation": operation.record()}, None))
        with pytest.raises(ConflictError, match="a snapshot of dev is in progress"):
            await core.resize.resize("alice", "dev", WITHOUT, "end")

    play(tmp_path, monkeypatch, scenario)


def test_only_what_is_ready_is_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        del clock
        await core.start(request=BASE)
        with pytest.raises(ConflictError, match="dev is queued") as failure:
            await core.resize.resize("alice", "dev", WITHOUT, "end")
        assert failure.value.hint == "`berth show dev` shows its state; resize it when it is ready"
        with pytest.raises(InvalidInputError, match="--output cannot be used"):
            await core.resize.resize("alice", "dev", ["--output=x"])
        with pytest.raises(BerthError, match="no session named dev"):
            await core.resize.resize("bob", "dev", WITHOUT)

    play(tmp_path, monkeypatch, scenario)


def test_a_gpu_more_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        del clock
        await with_gpu(core)
        await core.ready("other")
        with pytest.raises(RefusedError, match=r"with a GPU reached \(1 of 1\)"):
            await core.resize.resize("alice", "other", ["--gres=gpu:1"])
        assert core.row("other").resizing is False

    play(tmp_path, monkeypatch, scenario, limits={"gpu_sessions": 1})


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        running.sessions["dev"] = ready()
        yield running


def test_the_command_waits_for_the_next_job(controller: ScriptedController) -> None:
    controller.script["dev"] += [
        ready(resizing=True),
        ready(resizing=True, next_job_id=8),
        view("dev", SessionState.QUEUED, job_id=8),
        ready(job_id=8, generation="2.0"),
    ]
    result = run("resize", "dev", "--gres", "none", "-c2")
    assert result.exit_code == 0, result.output
    assert [body for method, path, body in controller.asked if path.endswith("/resize")] == [
        {"options": ["--gres=none", "--cpus-per-task=2"], "present_job": "auto"}
    ]
    assert "ready on c2" in result.output


def test_command_says_that_the_session_has_these_resources(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = CheckReport(session=ready(), ends_job=False, unchanged=True)
    monkeypatch.setattr(controller, "_check", lambda *_: report)
    result = run("resize", "dev", "--mem=8G", "-c2")
    assert (result.exit_code, result.stderr) == (0, "dev has --mem=8G --cpus-per-task=2 already; nothing was changed\n")
    assert json.loads(run("resize", "dev", "--mem=8G", "--json").stdout)["name"] == "dev"
    assert not [path for _, path, _ in controller.asked if path.endswith("/resize")]


def test_the_command_tells_if_nothing_comes_of_it(controller: ScriptedController) -> None:
    controller.script["dev"] += [ready(resizing=True), ready()]
    result = run("resize", "dev", "--gres=none")
    assert result.exit_code == ExitCode.CONFLICT
    assert "dev was not resized" in result.output


@pytest.mark.parametrize("words", [(), ("--no-such",), ("--output=x",), ("none",)])
def test_what_is_no_resource_asks_for_nothing(controller: ScriptedController, words: tuple[str, ...]) -> None:
    assert run("resize", "dev", *words).exit_code == ExitCode.USAGE
    assert not controller.asked


def test_interrupted_wait_names_the_way_back(controller: ScriptedController) -> None:
    waiting = ready(resizing=True, beside=True, next_job_id=8, next_job_reason="Resources")
    controller.script["dev"] += [waiting, waiting]
    result = run("resize", "dev", "--gres=none", "--timeout", "0.1")
    assert result.exit_code == ExitCode.TIMED_OUT
    assert "dev is still in its present job, and moves to the new one when that runs" in result.stderr
    assert "hint: `berth resize dev --cancel` keeps it there" in result.stderr


def test_cancel_withdraws_the_resize(controller: ScriptedController) -> None:
    result = run("resize", "dev", "--cancel")
    assert (result.exit_code, result.stderr) == (0, "dev keeps job 7\n")
    assert [(method, path) for method, path, _ in controller.asked] == [("DELETE", "/v1/sessions/dev/resize")]


@pytest.mark.parametrize(("flag", "asks"), [("--keep", "keep"), ("--end-first", "end")])
def test_choice_of_what_happens_to_the_present_job(controller: ScriptedController, flag: str, asks: str) -> None:
    controller.script["dev"] += [ready(resizing=True, beside=asks == "keep")]
    result = run("resize", "dev", flag, "--no-wait", "--gres=none")
    assert result.exit_code == 0, result.output
    when = "when that runs" if asks == "keep" else "when Slurm has queued it"
    assert f"dev will continue in a new job {when}" in result.stderr
    assert [body["present_job"] for _, path, body in controller.asked if path.endswith("/resize")] == [asks]


@pytest.mark.parametrize("words", [("--keep", "--end-first", "-c2"), ("--cancel", "-c2"), ("--cancel", "--keep")])
def test_contradicting_words_ask_for_nothing(controller: ScriptedController, words: tuple[str, ...]) -> None:
    result = run("resize", "dev", *words)
    assert (result.exit_code, controller.asked) == (ExitCode.USAGE, [])


def test_stop_ends_the_wait_of_the_command(controller: ScriptedController) -> None:
    controller.script["dev"] += [ready(resizing=True), view("dev", SessionState.STOPPED, job_id=7)]
    result = run("resize", "dev", "--gres=none")
    assert result.exit_code == ExitCode.CONFLICT
    assert "dev was not resized and is stopped" in result.stderr


def test_waiting_resize_is_shown() -> None:
    shown = ready(resizing=True, beside=True, next_job_id=8, next_job_reason="QOSMaxJobsPerUserLimit")
    assert describe_resize(shown) == (
        "moves to job 8 with other resources when that runs; "
        "it waits: QOSMaxJobsPerUserLimit (you have as many jobs as your QOS allows)"
    )
    assert "`berth resize dev --cancel` keeps it in its job" in next_step(shown, 0)
    assert describe_resize(ready(resizing=True)) == "moves to a job with other resources"
    assert describe_resize(ready()) == ""
