"""The loop from a job's start to its end: what it records, what it leaves, and how it continues after a failure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile import query_pace
from broker.controller.reconcile.observation import observe, record_end
from broker.controller.reconcile.state import Outcome
from broker.controller.registry.registry import EventEntry
from broker.schema.sessions import SessionState
from broker.text.status import describe_state
from slurm.state import JobState
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler, SilentScheduler

if TYPE_CHECKING:
    from pathlib import Path


def test_a_session_goes_from_queued_to_ready_and_its_end_is_seen(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        scheduler = FakeScheduler(now=clock.time)
        core = Core.make(site_config(tmp_path), FakeLauncher(scheduler))
        await core.start()
        job = core.row().job.job_id
        assert job is not None
        scheduler.change(job, reason="Resources", started_at=clock.now + 60)
        await core.tick()
        waiting = core.row()
        assert (waiting.state, waiting.reason) == (SessionState.QUEUED, "Resources")
        assert (await core.sessions.show("alice", "dev")).expected_start_at == clock.now + 60
        scheduler.start(job)
        await core.tick()
        assert (core.row().state, core.row().endpoint) == (SessionState.STARTING, None)
        core.announce(core.row(), port=20002)
        await core.tick()
        endpoint = core.row().endpoint
        assert endpoint is not None
        assert (endpoint.node, endpoint.port) == ("c1", 20002)
        scheduler.end(job, JobState.OUT_OF_MEMORY)
        await core.tick()
        failed = core.row()
        assert (failed.state, failed.job.outcome) == (SessionState.FAILED, "OUT_OF_MEMORY")
        assert "memory" in failed.reason

    asyncio.run(scenario())


def test_one_tick_is_one_query_however_many_sessions(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        for number in range(20):
            await core.ready(f"s{number}")
        core.scheduler.asked.clear()
        await core.tick()
        assert core.scheduler.asked == ["jobs berth-"]

    asyncio.run(scenario())


def test_a_tick_without_news_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        before = await core.ready()
        assert not await core.reconciler.tick()
        assert core.row().revision == before.revision

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "lie", [{"restarts": 7}, {"node": "c2"}, {"fingerprint": "SHA256:" + "a" * 43}, {"port": 0}, {"submission": "x"}]
)
def test_what_a_job_says_untruly_is_no_endpoint(tmp_path: Path, lie: dict[str, object]) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        await core.start()
        job = core.row().job.job_id
        assert job is not None
        core.scheduler.start(job)
        core.announce(core.row(), **lie)  # type: ignore[arg-type]  # node and port may be lies too
        await core.tick()
        assert core.row().state is SessionState.STARTING

    asyncio.run(scenario())


def test_a_requeued_job_loses_its_endpoint_until_it_announces_itself_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        session = await core.ready()
        assert session.job.job_id is not None
        # Slurm counts the next run as soon as the node has failed, while the epilog of the present one still runs.
        core.scheduler.change(session.job.job_id, state=JobState.COMPLETING, restarts=1)
        await core.tick()
        assert (core.row().state, core.row().generation) == (SessionState.READY, "1.0")
        core.scheduler.change(session.job.job_id, restarts=0)
        core.scheduler.requeue(session.job.job_id)
        await core.tick()
        waiting = core.row()
        assert (waiting.state, waiting.job.node, waiting.job.started_at, waiting.job.ends_at) == (
            SessionState.QUEUED,
            "",
            None,
            None,
        )
        core.scheduler.start(session.job.job_id, node="c1")
        await core.tick()
        assert core.row().state is SessionState.STARTING
        core.announce(core.row())
        await core.tick()
        assert (core.row().state, core.row().generation) == (SessionState.READY, "1.1")

    asyncio.run(scenario())


def test_no_answer_changes_nothing_but_the_stamp(tmp_path: Path) -> None:
    async def scenario() -> None:
        scheduler = SilentScheduler()
        scheduler.silent = False
        core = Core.make(site_config(tmp_path), FakeLauncher(scheduler))
        before = await core.ready()
        assert before.job.job_id is not None
        scheduler.end(before.job.job_id)
        scheduler.silent = True
        await core.tick()
        assert core.row() == before
        assert (await core.sessions.show("alice", "dev")).stale_since is not None
        scheduler.silent = False
        await core.tick()
        assert (await core.sessions.show("alice", "dev")).stale_since is None
        assert core.row().state is SessionState.STOPPED

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "newer",
    [
        {"state": SessionState.STOPPING},
        {"state": SessionState.STOPPED},
        {"state": SessionState.SUBMITTING, "submission": 2, "job_id": None},
        {"job_id": 8},
    ],
)
def test_what_was_seen_does_not_overwrite_what_was_asked_since(newer: dict[str, Any]) -> None:
    """Between the tick's look at a session and its change, its user stopped it or started it again."""
    seen = make_session(state=SessionState.STARTING, job_id=7)
    values: dict[str, Any] = {"id": seen.id, "state": SessionState.STARTING, "job_id": 7}
    now = make_session(**values | newer)
    scheduler = FakeScheduler()
    job = scheduler.change(scheduler.submit("berth-" + seen.id), id=7, state=JobState.RUNNING, node="c1")
    assert observe(seen, job, None, 1.0)(now) is None
    assert record_end(seen, Outcome(SessionState.FAILED), None, 1.0)(now) is None
    assert observe(seen, job, None, 1.0)(seen) is not None
    assert record_end(seen, Outcome(SessionState.FAILED), None, 1.0)(seen) is not None


def test_data_that_cannot_be_removed_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr("broker.controller.reconcile.deletion.FIRST_PAUSE_S", 0.01)
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        session = core.registry.create(make_session(state=SessionState.STOPPED), EventEntry("alice", "start"))
        core.launcher.failures["trash"] = LauncherError("files", "Permission denied")
        await core.sessions.delete("alice", "dev")
        waiting = asyncio.create_task(core.changes.wait([session.id], core.changes.number, 10 * DEADLINE_S))
        await core.tick()
        async with asyncio.timeout(DEADLINE_S):
            await waiting
        assert core.row().state is SessionState.DELETING
        assert "Permission denied" in core.row().reason
        core.launcher.failures.clear()
        async with asyncio.timeout(DEADLINE_S):
            while core.registry.find("alice", "dev") is not None:
                await core.tick()
        kept = core.registry.get(session.id)
        assert kept is not None
        assert kept.state is SessionState.DELETED

    asyncio.run(scenario())


def test_the_loop_outlives_a_tick_that_fails_and_looks_when_woken(tmp_path: Path) -> None:
    async def scenario() -> None:
        class Broken(FakeScheduler):
            broken = True

            async def _note(self, question: str) -> None:
                await super()._note(question)
                if self.broken:
                    self.broken = False
                    raise RuntimeError("a bug")

        core = Core.make(site_config(tmp_path), FakeLauncher(Broken()))
        await core.start()
        job = core.row().job.job_id
        assert job is not None
        core.scheduler.start(job)
        running = asyncio.create_task(core.reconciler.run())
        core.reconciler.wake()
        async with asyncio.timeout(DEADLINE_S):
            await core.sessions.show("alice", "dev", after=core.row().revision, wait=10 * DEADLINE_S)
        assert core.row().state is SessionState.STARTING
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_refresh_of_a_session_queries_slurm_at_once(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `berth exec`, whose session may have ended since the last query."""
    monkeypatch.setattr(query_pace, "AGE_FACTOR", 1e9)
    monkeypatch.setattr(query_pace, "MOVING_QUERY_S", 10 * DEADLINE_S)

    async def scenario() -> None:
        await core.start()
        job = core.row().job.job_id
        assert job is not None
        running = asyncio.create_task(core.reconciler.run())
        async with asyncio.timeout(DEADLINE_S):
            queued = await core.sessions.show("alice", "dev", after=core.row().revision, wait=10 * DEADLINE_S)
            core.scheduler.start(job)
            assert (await core.sessions.show("alice", "dev", after=queued.revision, wait=0.05)).state == queued.state
            await core.sessions.show("alice", "dev", refresh=True)
            await core.sessions.show("alice", "dev", after=queued.revision, wait=10 * DEADLINE_S)
        assert core.row().state is SessionState.STARTING
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_the_place_in_the_queue_is_kept_up_to_date(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        scheduler = FakeScheduler(now=clock.time)
        core = Core.make(site_config(tmp_path), FakeLauncher(scheduler))
        others = [scheduler.submit("other", user="bob") for _ in range(2)]
        await core.start()
        seen = []
        for job in [*others, core.row().job.job_id or 0]:
            await core.tick()
            view = await core.sessions.show("alice", "dev")
            seen.append((view.ahead, describe_state(view, clock.now)))
            scheduler.start(job)
        await core.tick()
        assert seen == [
            (2, "queued; 2 jobs ahead"),
            (1, "queued; 1 job ahead"),
            (0, "queued; first in line"),
        ]
        assert (await core.sessions.show("alice", "dev")).ahead is None

    asyncio.run(scenario())
