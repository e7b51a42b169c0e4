"""Connecting to a session that is not ready: it is started once, awaited, and its progress is shown."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import BerthError, ConflictError, WaitingError
from broker.schema.sessions import ConnectPolicy, SessionState
from slurm.state import JobState
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher, SlowLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from broker.schema.connections import ResolveAnswer


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question waits for moments only."""
    monkeypatch.setattr("broker.controller.sessions.connect.FIRST_POLL_S", 0.05)
    monkeypatch.setattr("broker.controller.sessions.connect.LATER_POLL_S", 0.1)


def play(
    place: Path,
    scene: Callable[[Core], Awaitable[None]],
    *,
    now: Callable[[], float] = time.time,
    **ssh: Any,  # noqa: ANN401 - settings
) -> None:
    async def whole() -> None:
        core = Core.make(site_config(place, ssh=ssh), FakeLauncher(FakeScheduler(now=now)))
        async with asyncio.timeout(TEST_DEADLINE_S):
            await scene(core)

    asyncio.run(whole())


def make_ready(core: Core) -> None:
    session = core.row()
    assert session.job.job_id is not None
    core.scheduler.start(session.job.job_id)
    core.announce(session)


async def as_the_gateway(core: Core) -> ResolveAnswer:
    """Ask as long as the controller wants to be asked again."""
    waited = 0.0
    while True:
        try:
            return await core.connect.connect("alice", "dev", waited=waited)
        except WaitingError:
            waited += 0.1


async def rest(core: Core, clock: Clock) -> None:
    """A stopped session, long after its end."""
    await core.stopped()
    clock.now += 3600


def test_a_stopped_session_is_started_and_waited_for(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await rest(core, clock)
        asked = asyncio.create_task(as_the_gateway(core))
        with pytest.raises(WaitingError, match=r"^dev is queued"):
            await core.connect.connect("alice", "dev", waited=1)
        make_ready(core)
        await core.tick()
        assert (await asked).generation == "2.0"
        details = [event.detail for event in await core.sessions.events("alice", "dev") if event.action == "start"]
        assert details == ["base@1", "base@1, by connecting"]

    play(tmp_path, scene)


def test_many_who_connect_at_once_start_one_job(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await rest(core, clock)
        asked = [asyncio.create_task(as_the_gateway(core)) for _ in range(50)]
        while core.row().submission == 1:  # noqa: ASYNC110 - what is waited for sets no Event
            await asyncio.sleep(0.01)
        for each in asked[:25]:
            each.cancel()  # they give up, perhaps the one that has begun the start too
        await core.tick()  # submits it if the one that would have done so gave up in between
        make_ready(core)
        await core.tick()
        assert {(await each).generation for each in asked[25:]} == {"2.0"}
        assert len(core.live_jobs(core.row())) == 1
        assert core.launcher.submissions() == 2

    play(tmp_path, scene)


def test_who_waits_too_long_is_told_how_far_it_is(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        view = await core.start()
        assert view.job_id is not None
        core.scheduler.change(view.job_id, reason="Priority")
        await core.tick()
        with pytest.raises(ConflictError) as refusal:
            await as_the_gateway(core)
        assert (
            refusal.value.message == "dev is queued: Priority (jobs with a higher priority are waiting); first in line"
        )
        assert refusal.value.hint.startswith("connect again shortly")
        assert core.row().state is SessionState.QUEUED
        with pytest.raises(WaitingError):
            await core.connect.connect("alice", "dev", waited=1e6, patient=True)

    play(tmp_path, scene, connect_wait=0.3)


def test_whoever_is_patient_hears_of_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.controller.sessions.connect.LATER_POLL_S", 30)

    async def scene(core: Core) -> None:
        view = await core.start()
        assert view.job_id is not None
        asked = asyncio.create_task(core.connect.connect("alice", "dev", patient=True))
        await asyncio.sleep(0.05)
        core.scheduler.start(view.job_id)
        await core.tick()
        with pytest.raises(WaitingError, match=r"^dev is starting on"):
            await asked

    play(tmp_path, scene)


def test_whoever_is_patient_hears_of_the_present_state_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.controller.sessions.connect.LATER_POLL_S", DEADLINE_S)

    async def scene(core: Core) -> None:
        view = await core.start()
        assert view.job_id is not None
        with pytest.raises(WaitingError, match=r"^dev is queued") as told:
            await core.connect.connect("alice", "dev", patient=True, shown="")
        asked = asyncio.create_task(core.connect.connect("alice", "dev", patient=True, shown=told.value.message))
        await asyncio.sleep(0.05)
        assert not asked.done()
        core.scheduler.start(view.job_id)
        await core.tick()
        with pytest.raises(WaitingError, match=r"^dev is starting on"):
            await asked

    play(tmp_path, scene)


@pytest.mark.parametrize("end", [JobState.CANCELLED, JobState.OUT_OF_MEMORY, JobState.FAILED])
def test_what_has_just_been_stopped_or_failed_is_not_started_at_once(
    tmp_path: Path, clock: Clock, end: JobState
) -> None:
    """IDEs connect again by themselves: they would undo a stop, and start what fails for ever."""

    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        if end is JobState.CANCELLED:
            await core.sessions.stop("alice", "dev")
        core.scheduler.end(session.job.job_id, end)
        await core.tick()
        clock.now = (core.row().job.ended_at or 0) + 20
        with pytest.raises(ConflictError, match=r"^dev is (stopped|failed).*, 20 s ago$") as refused:
            await as_the_gateway(core)
        assert refused.value.hint == "`berth start dev` starts it; connecting does it in 40 s"
        assert core.launcher.submissions() == 1
        clock.now += 60
        with pytest.raises(WaitingError):
            await core.connect.connect("alice", "dev")
        assert core.launcher.submissions() == 2

    play(tmp_path, scene)


@pytest.mark.parametrize("end", [JobState.TIMEOUT, JobState.PREEMPTED, JobState.NODE_FAIL, JobState.COMPLETED])
def test_what_ended_for_no_fault_of_its_own_is_started_at_once(tmp_path: Path, end: JobState) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id, end)
        await core.tick()
        with pytest.raises(WaitingError):
            await core.connect.connect("alice", "dev")
        assert core.row().submission == 2

    play(tmp_path, scene)


def test_one_that_ends_before_it_was_ready_is_not_started_again_and_again(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        view = await core.start()
        assert view.job_id is not None
        core.scheduler.end(view.job_id)
        await core.tick()
        with pytest.raises(ConflictError, match=r"^dev is stopped: the job ended by itself, \d s ago"):
            await as_the_gateway(core)
        assert core.row().submission == 1

    play(tmp_path, scene)


def test_site_and_session_say_whether_connecting_starts(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await rest(core, clock)
        with pytest.raises(ConflictError, match=r"^dev is stopped.*; `berth start dev` starts it$"):
            await as_the_gateway(core)
        view = await core.policies.set_connect("alice", "dev", ConnectPolicy(start=True))
        view = await core.policies.set_connect("alice", "dev", ConnectPolicy(wait=0.0))
        assert view.connecting == ConnectPolicy(start=True, wait=0.0)
        with pytest.raises(BerthError):
            await core.policies.set_connect("bob", "dev", ConnectPolicy(start=True))
        with pytest.raises(ConflictError, match=r"^dev is queued"):
            await as_the_gateway(core)
        assert core.row().submission == 2
        view = await core.policies.set_connect("alice", "dev", ConnectPolicy(start=None))
        assert view.connecting == ConnectPolicy(wait=0.0)

    play(tmp_path, scene, start_on_connect=False)


def test_a_requeued_job_is_waited_for_and_its_next_generation_reached(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.requeue(session.job.job_id)
        await core.tick()
        asked = asyncio.create_task(as_the_gateway(core))
        await asyncio.sleep(0.05)
        core.scheduler.start(session.job.job_id)
        core.announce(core.row())
        await core.tick()
        assert (await asked).generation == "1.1"

    play(tmp_path, scene)


def test_unheld_question_says_what_to_wait_for(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await rest(core, clock)
        with pytest.raises(WaitingError) as raised:
            await core.connect.connect("alice", "dev", hold=False)
        row = core.row()
        assert (row.submission, raised.value.session_id, raised.value.revision) == (2, row.id, row.revision)
        waiting = asyncio.create_task(core.connect.wait_for_changes({row.id: row.revision}, 30))
        make_ready(core)
        await core.tick()
        assert await waiting == [row.id]
        assert (await core.connect.connect("alice", "dev", waited=1, hold=False)).generation == "2.0"

    play(tmp_path, scene)


def test_start_goes_on_when_its_first_client_leaves(tmp_path: Path, clock: Clock) -> None:
    async def scene() -> None:
        launcher = SlowLauncher(FakeScheduler())
        launcher.let_go.set()
        core = Core.make(site_config(tmp_path), launcher)
        await rest(core, clock)
        launcher.let_go.clear()
        launcher.reached.clear()
        first = asyncio.create_task(core.connect.connect("alice", "dev"))
        second = asyncio.create_task(core.connect.connect("alice", "dev"))
        await launcher.reached.wait()
        first.cancel()
        with pytest.raises(WaitingError):
            await core.connect.connect("alice", "dev", hold=False)
        launcher.let_go.set()
        with pytest.raises(WaitingError):
            await second
        assert core.row().job.job_id is not None
        assert launcher.submissions() == 2

    asyncio.run(scene())


def test_client_that_has_left_waits_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.controller.sessions.connect.LATER_POLL_S", 10 * DEADLINE_S)

    async def scene(core: Core) -> None:
        await core.start()
        await core.tick()
        row, gone = core.row(), asyncio.Event()
        waiting: list[asyncio.Task[Any]] = [
            asyncio.create_task(core.connect.connect("alice", "dev", patient=True, gone=gone)),
            asyncio.create_task(core.connect.wait_for_changes({row.id: row.revision}, 10 * DEADLINE_S, gone)),
            asyncio.create_task(
                core.sessions.show("alice", "dev", after=row.revision, wait=10 * DEADLINE_S, gone=gone)
            ),
        ]
        done, _ = await asyncio.wait(waiting, timeout=0.1)
        assert not done
        gone.set()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(WaitingError):
                await waiting[0]
            assert await waiting[1] == []
            assert (await waiting[2]).revision == row.revision

    play(tmp_path, scene)


def test_what_is_on_its_way_is_told_at_the_next_login(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await rest(core, clock)
        assert await core.connect.notices("alice") == {}
        await core.start()
        assert await core.connect.notices("alice") == {"dev": "dev is queued", "": "dev is queued"}
        assert await core.connect.notices("bob") == {}
        make_ready(core)
        await core.tick()
        assert await core.connect.notices("alice") == {}
        await core.start("ci")
        assert await core.connect.notices("alice") == {"ci": "ci is queued"}

    play(tmp_path, scene, now=clock.time)


def test_what_was_set_survives_the_loss_of_the_registry(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        await core.policies.set_connect("alice", "dev", ConnectPolicy(start=False, wait=60))
        text = core.launcher.directories["alice", core.row().id].files["manifest.json"]
        assert '"wait": 60.0' in text

    play(tmp_path, scene)
