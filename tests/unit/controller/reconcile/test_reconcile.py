"""The loop against a Slurm that forgets, stays silent, refuses, requeues and holds jobs of other people."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.observation import observe, record_end
from broker.controller.reconcile.state import Outcome
from broker.controller.registry.registry import EventEntry
from broker.schema.sessions import SessionState
from broker.status_text import describe_state
from slurm.scheduler import NoAnswer, Refused
from slurm.state import JobState
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher, MumblingLauncher
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler, SilentScheduler, SlowScheduler, StubbornScheduler

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from slurm.scheduler import FinishedJob


def make(directory: Path, scheduler: FakeScheduler) -> Core:
    return Core.make(site_config(directory), FakeLauncher(scheduler))


def test_a_session_goes_from_queued_to_ready_and_its_end_is_seen(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        scheduler = FakeScheduler(now=clock.time)
        core = make(tmp_path, scheduler)
        await core.start()
        job = core.row().job.job_id
        assert job is not None
        scheduler.change(job, reason="Resources", started_at=clock.now + 60)
        await core.tick()
        waiting = core.row()
        assert (waiting.state, waiting.reason) == (SessionState.QUEUED, "Resources")
        assert waiting.job.expected_start_at == clock.now + 60
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
        core = make(tmp_path, FakeScheduler())
        for number in range(20):
            await core.ready(f"s{number}")
        core.scheduler.asked.clear()
        await core.tick()
        assert core.scheduler.asked == ["jobs berth-"]

    asyncio.run(scenario())


def test_a_tick_without_news_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path, FakeScheduler())
        before = await core.ready()
        assert not await core.reconciler.tick()
        assert core.row().revision == before.revision

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "lie", [{"restarts": 7}, {"node": "c2"}, {"fingerprint": "SHA256:" + "a" * 43}, {"port": 0}, {"submission": "x"}]
)
def test_what_a_job_says_untruly_is_no_endpoint(tmp_path: Path, lie: dict[str, object]) -> None:
    async def scenario() -> None:
        core = make(tmp_path, FakeScheduler())
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
        core = make(tmp_path, FakeScheduler())
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
        core = make(tmp_path, scheduler)
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


def test_a_forgotten_job_ends_as_accounting_says(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path, FakeScheduler())
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id, JobState.OUT_OF_MEMORY)
        core.scheduler.forget(session.job.job_id)
        await core.tick()
        assert (core.row().state, core.row().job.outcome) == (SessionState.FAILED, "OUT_OF_MEMORY")

    asyncio.run(scenario())


def test_accounting_of_another_job_with_that_id_is_not_believed(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = make(tmp_path, FakeScheduler(now=clock.time))
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.change(session.job.job_id, user="bob")
        core.scheduler.end(session.job.job_id)
        core.scheduler.forget(session.job.job_id)
        await core.tick()
        assert core.row().state is SessionState.READY
        assert core.row().job.missing_since == clock.now

    asyncio.run(scenario())


class _WithoutAccounting(FakeScheduler):
    async def finished(self, job_ids: Iterable[int]) -> dict[int, FinishedJob]:
        await super().finished(job_ids)
        raise NoAnswer("slurmdbd is down")


class _Amnesiac(FakeScheduler):
    async def finished(self, job_ids: Iterable[int]) -> dict[int, FinishedJob]:
        await super().finished(job_ids)
        return {}


@pytest.mark.parametrize(("scheduler", "times"), [(_Amnesiac, 1), (_WithoutAccounting, 10)])
def test_a_job_that_nobody_knows_is_lost_only_after_long(
    tmp_path: Path, clock: Clock, scheduler: type[FakeScheduler], times: int
) -> None:
    async def scenario() -> None:
        core = make(tmp_path, scheduler(now=clock.time))
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id)
        core.scheduler.forget(session.job.job_id)
        await core.tick()
        clock.now += core.config.slurm.lost_grace * times - 1
        await core.tick()
        assert core.row().state is SessionState.READY
        clock.now += 12
        await core.tick()
        assert (core.row().state, core.row().job.outcome) == (SessionState.FAILED, "LOST")

    asyncio.run(scenario())


def test_a_missing_job_that_comes_back_is_not_lost(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = make(tmp_path, _Amnesiac(now=clock.time))
        session = await core.ready()
        assert session.job.job_id is not None
        hidden = core.scheduler._jobs.pop(session.job.job_id)
        await core.tick()
        core.scheduler._jobs[session.job.job_id] = hidden
        clock.now += 1000
        await core.tick()
        assert (core.row().state, core.row().job.missing_since) == (SessionState.READY, None)

    asyncio.run(scenario())


def test_a_job_that_will_not_die_is_cancelled_again_but_not_in_each_tick(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = make(tmp_path, StubbornScheduler(now=clock.time))
        session = await core.ready()
        await core.sessions.stop("alice", "dev")
        for _ in range(3):
            await core.tick()
        order = f"cancel {session.job.job_id}"
        assert core.scheduler.asked.count(order) == 1
        assert core.row().state is SessionState.STOPPING
        clock.now += 16
        await core.tick()
        assert core.scheduler.asked.count(order) == 2
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id, JobState.CANCELLED)
        await core.tick()
        assert core.row().state is SessionState.STOPPED

    asyncio.run(scenario())


def test_a_stray_that_will_not_die_is_cancelled_again_but_not_in_each_tick(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = make(tmp_path, StubbornScheduler(now=clock.time))
        session = await core.ready()
        stray = core.scheduler.submit(f"berth-{session.id}", comment=f"berth:{session.id}:1")
        core.scheduler.start(stray)
        for _ in range(3):
            await core.tick()
        assert core.scheduler.asked.count(f"cancel {stray}") == 1
        clock.now += 16
        await core.tick()
        assert core.scheduler.asked.count(f"cancel {stray}") == 2
        assert core.row().job.job_id == session.job.job_id

    asyncio.run(scenario())


class _RefusingScheduler(FakeScheduler):
    async def cancel(self, job_id: int) -> None:
        await self._note(f"cancel {job_id}")
        raise Refused("Access/permission denied")


def test_a_cancel_that_slurm_refuses_holds_up_nobody(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        core = make(tmp_path, _RefusingScheduler(now=clock.time))
        session = await core.ready("first")
        core.scheduler.submit(f"berth-{session.id}")
        await core.sessions.stop("alice", "first")
        registry = core.registry
        registry.create(make_session(name="second", state=SessionState.DELETING), EventEntry("alice", "delete"))
        await core.tick()
        await core.tick()
        assert registry.find("alice", "second") is None
        assert core.scheduler.asked.count(f"cancel {session.job.job_id}") == 1
        assert [event.action for event in registry.events_of("alice", session.id)].count("cancel-refused") == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("state", [SessionState.STOPPED, SessionState.FAILED, SessionState.DELETED])
def test_a_live_job_of_a_session_that_has_none_is_cancelled(tmp_path: Path, state: SessionState) -> None:
    async def scenario() -> None:
        core = make(tmp_path, FakeScheduler())
        session = core.registry.create(make_session(state=state), EventEntry("alice", "start"))
        late = core.scheduler.submit(f"berth-{session.id}", comment=f"berth:{session.id}:1")
        await core.tick()
        assert core.scheduler._jobs[late].state is JobState.CANCELLED

    asyncio.run(scenario())


def test_jobs_of_others_and_of_unknown_sessions_are_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path, FakeScheduler())
        await core.start()
        session = core.row()
        bobs = core.scheduler.submit(f"berth-{session.id}", user="bob", comment=f"berth:{session.id}:1")
        unknown = core.scheduler.submit(
            "berth-01jd0000000000000000000000", comment="berth:01jd0000000000000000000000:1"
        )
        await core.tick()
        assert not core.scheduler._jobs[bobs].state.ended
        assert not core.scheduler._jobs[unknown].state.ended
        assert core.row().job.job_id == session.job.job_id

    asyncio.run(scenario())


def test_a_submission_that_a_crash_interrupted_is_made_by_the_next_tick(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path, FakeScheduler())
        image = core.stores.find("base")
        row = make_session(state=SessionState.SUBMITTING, digest=image.digest, image_path=str(image.path), host_key="")
        core.registry.create(row, EventEntry("alice", "start"))
        await core.tick()
        assert core.row().job.job_id == 1
        assert core.launcher.submissions() == 1
        await core.tick()
        assert core.launcher.submissions() == 1

    asyncio.run(scenario())


def test_an_answer_that_is_older_than_the_submission_does_not_repeat_it(tmp_path: Path) -> None:
    """The tick saw the session before it had been submitted, and acts on that only when it has been."""

    async def scenario() -> None:
        scheduler = SlowScheduler()
        core = make(tmp_path, scheduler)
        image = core.stores.find("base")
        row = make_session(state=SessionState.SUBMITTING, digest=image.digest, image_path=str(image.path), host_key="")
        session = core.registry.create(row, EventEntry("alice", "start"))
        await core.submitter.submit(session)
        seen = make_session(id=session.id, state=SessionState.SUBMITTING, digest=image.digest)
        await core.reconciler._resume(seen, asked_at=0.0)
        await core.settle()
        assert core.launcher.submissions() == 1
        assert core.row().job.job_id == 1

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
    """Between the tick's look at a session and its change, somebody stopped it or started it anew."""
    seen = make_session(state=SessionState.STARTING, job_id=7)
    values: dict[str, Any] = {"id": seen.id, "state": SessionState.STARTING, "job_id": 7}
    now = make_session(**values | newer)
    scheduler = FakeScheduler()
    job = scheduler.change(scheduler.submit("berth-" + seen.id), id=7, state=JobState.RUNNING, node="c1")
    assert observe(seen, job, None, 1.0)(now) is None
    assert record_end(seen, Outcome(SessionState.FAILED), None, 1.0)(now) is None
    assert observe(seen, job, None, 1.0)(seen) is not None
    assert record_end(seen, Outcome(SessionState.FAILED), None, 1.0)(seen) is not None


def test_an_unclear_submission_is_repeated_only_after_the_grace(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        launcher = MumblingLauncher(FakeScheduler(now=clock.time))
        launcher.queues = False
        core = Core.make(site_config(tmp_path), launcher)
        await core.start()
        clock.now += core.config.slurm.submit_grace - 1
        await core.tick()
        assert launcher.submissions() == 1
        clock.now += 2
        await core.tick()
        assert launcher.submissions() == 2
        launcher.deliver()
        await core.tick()
        await core.tick()
        assert len(core.live_jobs(core.row())) == 1

    asyncio.run(scenario())


def test_data_that_cannot_be_removed_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr("broker.controller.reconcile.deletion.FIRST_PAUSE_S", 0.01)
        core = make(tmp_path, FakeScheduler())
        session = core.registry.create(make_session(state=SessionState.STOPPED), EventEntry("alice", "start"))
        core.launcher.failures["trash"] = LauncherError("files", "Permission denied")
        await core.sessions.delete("alice", "dev")
        waiting = core.changes.next()
        await core.tick()
        assert waiting.is_set()
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

        core = make(tmp_path, Broken())
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


def test_who_cancelled_a_job_is_told_when_accounting_knows(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        scheduler = FakeScheduler(now=clock.time)
        core = make(tmp_path, scheduler)
        job = (await core.ready()).job.job_id
        assert job is not None
        scheduler.end(job, JobState.CANCELLED, cancelled_by="root")
        late = scheduler._accounting.pop(job)  # slurmdbd hears of it later than slurmctld shows it
        await core.tick()
        assert (core.row().state, core.row().reason) == (SessionState.STOPPED, "the job was cancelled outside Berth")
        scheduler._accounting[job] = late
        clock.now += 11
        await core.tick()
        because = "the job was cancelled outside Berth, by root"
        assert core.row().reason == because
        assert [record.reason for record in await core.sessions.jobs("alice", "dev")] == [because]
        asked = len(scheduler.asked)
        clock.now += 60
        await core.tick()
        assert [words for words in scheduler.asked[asked:] if words.startswith("finished")] == []

    asyncio.run(scenario())


def test_a_canceller_whom_nobody_knows_is_not_asked_after_for_ever(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        scheduler = FakeScheduler(now=clock.time)
        core = make(tmp_path, scheduler)
        job = (await core.ready()).job.job_id
        assert job is not None
        scheduler.end(job, JobState.CANCELLED)
        scheduler._accounting.clear()
        for _ in range(20):
            clock.now += 20
            await core.tick()
        asked = len(scheduler.asked)
        clock.now += 20
        await core.tick()
        assert [words for words in scheduler.asked[asked:] if words.startswith("finished")] == []
        assert core.row().reason == "the job was cancelled outside Berth"

    asyncio.run(scenario())


def test_the_place_in_the_queue_is_kept_up_to_date(tmp_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        scheduler = FakeScheduler(now=clock.time)
        core = make(tmp_path, scheduler)
        others = [scheduler.submit("other", user="bob") for _ in range(2)]
        await core.start()
        seen = []
        for job in [*others, core.row().job.job_id or 0]:
            await core.tick()
            seen.append((core.row().job.ahead, describe_state(core.row().view(), clock.now)))
            scheduler.start(job)
        await core.tick()
        assert seen == [
            (2, "queued; 2 jobs ahead"),
            (1, "queued; 1 job ahead"),
            (0, "queued; first in line"),
        ]
        assert core.row().job.ahead is None

    asyncio.run(scenario())
