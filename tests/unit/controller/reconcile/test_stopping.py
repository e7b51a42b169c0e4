"""`berth stop --at` and `--keep-until`: a session is stopped at its time, whatever job carries it then."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.reconcile.succession import should_continue, successor_due
from broker.controller.registry.manifest import Manifest
from broker.errors import ConflictError, ExitCode, InvalidInputError
from broker.schema.sessions import ContinuationChoice, SessionState, StartRequest, StopTime
from broker.text.status import describe_deadline
from slurm.state import JobState
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ScriptedController, ready, view
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

HOUR = 3600.0


def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: Callable[[Core, Clock], Awaitable[None]]) -> None:
    clock = Clock().install(monkeypatch)

    async def scene() -> None:
        await scenario(Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time))), clock)

    asyncio.run(scene())


def test_it_is_stopped_at_its_time_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        session = await core.ready()
        at = clock.now + HOUR
        told = await core.policies.set_stop_time("alice", "dev", StopTime(at=at))
        assert (told.stop_at, told.stays) == (at, False)
        clock.now = at - 1
        await core.tick()
        assert core.row().state is SessionState.READY
        clock.now = at
        await core.tick()
        await core.tick()
        row = core.row()
        assert (row.state, row.stop_at) == (SessionState.STOPPED, None)
        assert core.live_jobs(session) == {}
        events = await core.sessions.events("alice", "dev")
        assert ("berth", "stop", "stopped at the scheduled time") in [(e.actor, e.action, e.detail) for e in events]

    play(tmp_path, monkeypatch, scenario)


def test_the_loop_wakes_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        await core.ready()
        clock.now += HOUR
        await core.tick()
        await core.policies.set_stop_time("alice", "dev", StopTime(at=clock.now + 3))
        clock.now += 1
        await core.tick()
        assert core.reconciler._pace.pause(0.0) <= 2.0

    play(tmp_path, monkeypatch, scenario)


def test_until_then_another_job_carries_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `keep`, against any policy of the session, and only then."""

    async def scenario(core: Core, clock: Clock) -> None:
        for name, keep in (("stays", True), ("goes", False)):
            session = await core.ready(name)
            await core.policies.set_continuation("alice", name, ContinuationChoice(continuation="never"))
            await core.policies.set_stop_time("alice", name, StopTime(at=clock.now + HOUR, keep=keep))
            assert session.job.job_id is not None
            core.scheduler.end(session.job.job_id, JobState.PREEMPTED)
        await core.tick()
        assert core.row("stays").state in {SessionState.SUBMITTING, SessionState.QUEUED}
        assert core.row("goes").state is SessionState.FAILED
        assert (core.row("stays").stop_at, core.row("stays").stays) == (clock.now + HOUR, True)
        clock.now += 2 * HOUR
        await core.tick()
        await core.tick()
        assert core.row("stays").state is SessionState.STOPPED

    play(tmp_path, monkeypatch, scenario)


def test_a_new_start_knows_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        session = await core.ready()
        await core.policies.set_stop_time("alice", "dev", StopTime(at=clock.now + HOUR, keep=True))
        await core.sessions.stop("alice", "dev")
        await core.tick()
        await core.tick()
        await core.start(request=StartRequest())
        row = core.row()
        assert row.job.job_id != session.job.job_id
        assert (row.stop_at, row.stays) == (None, False)

    play(tmp_path, monkeypatch, scenario)


def test_it_is_taken_back_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        await core.ready()
        with pytest.raises(InvalidInputError, match="is not in the future"):
            await core.policies.set_stop_time("alice", "dev", StopTime(at=clock.now - 1))
        await core.policies.set_stop_time("alice", "dev", StopTime(at=clock.now + HOUR, keep=True))
        told = await core.policies.set_stop_time("alice", "dev", StopTime(at=None, keep=True))
        assert (told.stop_at, told.stays) == (None, False)
        await core.stopped("other")
        with pytest.raises(ConflictError, match="other is stopped"):
            await core.policies.set_stop_time("alice", "other", StopTime(at=clock.now + HOUR))

    play(tmp_path, monkeypatch, scenario)


def test_a_lost_registry_knows_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        row = await core.ready()
        await core.policies.set_stop_time("alice", "dev", StopTime(at=clock.now + HOUR, keep=True))
        manifest = Manifest.model_validate_json((await core.launcher.manifests("alice"))[row.id])
        assert (manifest.stop_at, manifest.stays) == (clock.now + HOUR, True)

    play(tmp_path, monkeypatch, scenario)


def test_no_successor_is_asked_for_beyond_it() -> None:
    now = time.time()
    told: dict[str, Any] = {"state": SessionState.READY, "continuation": "always"}
    told |= {"started_at": now - HOUR, "ends_at": now + 60}
    assert successor_due(make_session(**told), now, 600)
    assert successor_due(make_session(**told, stop_at=now + 120), now, 600)
    assert not successor_due(make_session(**told, stop_at=now + 50), now, 600)
    assert not should_continue(make_session(**told, stop_at=now), now)
    assert should_continue(make_session(continuation="never", stop_at=now + 1, stays=True), now)
    assert not should_continue(make_session(continuation="never", stop_at=now + 1), now)


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        running.sessions["dev"] = view("dev", SessionState.READY)
        yield running


@pytest.mark.parametrize(
    ("words", "seconds", "keep"), [("--at 4h", 4 * HOUR, False), ("--keep-until 2d", 48 * HOUR, True)]
)
def test_a_length_of_time(controller: ScriptedController, words: str, seconds: float, *, keep: bool) -> None:
    before = time.time()
    result = run("stop", "dev", *words.split())
    assert result.exit_code == 0, result.output
    method, path, body = controller.asked[0]
    assert (method, path, body["keep"]) == ("PUT", "/v1/sessions/dev/stop-time", keep)
    assert before + seconds <= body["at"] <= time.time() + seconds


def test_a_time_of_day_and_a_date(controller: ScriptedController) -> None:
    run("stop", "dev", "--at", time.strftime("%H:%M", time.localtime(time.time() + 120)))
    run("stop", "dev", "--at", "2100-01-01T18:00")
    run("stop", "dev", "--at", "never")
    first, second, third = (body["at"] for method, _, body in controller.asked if method == "PUT")
    assert 0 < first - time.time() <= 120
    assert time.strftime("%F %R", time.localtime(second)) == "2100-01-01 18:00"
    assert third is None


@pytest.mark.parametrize("words", ["--at soon", "--at 25:00", "--at 4h --keep-until 5h", "--at 2100-13-01"])
def test_what_is_no_time_asks_for_nothing(controller: ScriptedController, words: str) -> None:
    assert run("stop", "dev", *words.split()).exit_code == ExitCode.USAGE
    assert not controller.asked


def test_everybody_is_told_that_it_is_near() -> None:
    now = time.time()
    assert describe_deadline(ready(stop_at=now + 240), now).endswith("(in 4 min) as scheduled")
    assert describe_deadline(ready(stop_at=now + 2 * HOUR), now) == ""
