"""The continuation of a session in another job when one has to end: its conditions, its time, and its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.controller.reconcile.job_comment import read
from broker.errors import NotFoundError
from broker.names import new_id
from broker.schema.connections import ConnectionRecord, ConnectionReport
from broker.schema.sessions import ContinuationChoice, SessionState, StartRequest
from slurm.state import JobState
from tests.fakes.core import Clock, Core, publish
from tests.unit.controller.reconcile.successors import HOUR, actions, end, play, start, with_successor

if TYPE_CHECKING:
    from pathlib import Path


def test_the_next_job_waits_and_carries_the_session_on(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        before = await core.ready()
        await core.tick()
        assert core.launcher.submissions() == 1, "it is early yet"
        clock.now += HOUR - 599
        await core.tick()
        await core.tick()
        assert core.launcher.submissions() == 2
        session = core.row()
        assert (session.state, session.job.job_id, session.generation) == (SessionState.READY, before.job.job_id, "1.0")
        view = session.view()
        assert view.next_job_id == session.next_job_id
        job = core.scheduler.change(view.next_job_id or 0)
        said = read(job)
        assert said is not None
        assert (said.session_id, said.submission) == (session.id, 2)
        files = core.launcher.directories["alice", session.id].files
        assert "BERTH_SUBMISSION=2\n" in files["job.env"]
        assert files["continuation"] == "always\n"
        core.scheduler.change(view.next_job_id or 0, reason="Dependency")
        await core.tick()
        clock.now += 594
        end(core, session, JobState.COMPLETED)
        await core.tick()
        session = core.row()
        assert (session.state, session.job.job_id, session.endpoint) == (SessionState.QUEUED, view.next_job_id, None)
        start(core, session.job.job_id, "c2")
        core.announce(session, node="c2")
        await core.tick()
        session = core.row()
        assert (session.state, session.job.node, session.generation) == (SessionState.READY, "c2", "2.0")
        assert session.host_key == before.host_key
        assert session.job.ends_at == clock.now + HOUR
        second, first = await core.sessions.jobs("alice", "dev")
        assert (first.job_id, first.node, first.outcome) == (before.job.job_id, "c1", "COMPLETED")
        assert (first.ended_at, first.reason) == (clock.now, "the job reached its time limit")
        assert second.reason == "", "why it waited is not why it ended"
        assert (second.job_id, second.node, second.outcome) == (session.job.job_id, "c2", "")
        assert (
            "continue",
            f"job {first.job_id} has ended (COMPLETED the job reached its time limit); "
            f"job {second.job_id} continues the session",
        ) in await actions(core)

    play(tmp_path, clock, scene)


def test_again_and_again_with_one_job_each(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        for number in range(2, 6):
            clock.now += HOUR - 300
            await core.tick()
            session = core.row()
            end(core, session)
            start(core, session.next_job_id)
            await core.tick()
            core.announce(core.row())
            await core.tick()
            session = core.row()
            assert (session.state, session.submission) == (SessionState.READY, number)
            assert core.launcher.submissions() == number
            assert len(core.live_jobs(session)) == 1

    play(tmp_path, clock, scene)


def test_a_short_job_is_followed_from_half_of_its_time_on(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.change(session.job.job_id, ends_at=clock.now + 60)
        clock.now += 29
        await core.tick()
        assert core.row().successor == 0
        clock.now += 2
        await core.tick()
        assert core.row().successor == 2

    play(tmp_path, clock, scene)


@pytest.mark.parametrize(
    ("policy", "used", "on"),
    [("always", 0.0, True), ("never", 3599.0, False), ("30m", 0.0, False), ("30m", 2900.0, True), ("2h", 0.0, True)],
)
def test_whether_it_goes_on_its_policy_and_its_last_use_say(
    tmp_path: Path, clock: Clock, policy: str, used: float, on: bool
) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        began = clock.now
        if used:
            clock.now = began + used
            record = ConnectionRecord(
                id=new_id(), session_id=session.id, user="alice", generation="1.0", began_at=clock.now
            )
            await core.connections.note(ConnectionReport(gateway="login1", connections=[record]), None)
        clock.now = began + HOUR - 300
        await core.tick()
        assert (core.row().next_job_id is not None) == on
        end(core, core.row())
        await core.tick()
        session = core.row()
        if on:
            assert (session.state, session.submission) == (SessionState.QUEUED, 2)
        else:
            assert session.state is SessionState.FAILED
            assert session.reason.startswith("the job reached its time limit")

    play(tmp_path, clock, scene, continuation=policy)


def test_site_profile_and_owner_decide_in_this_order(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        publish(core.stores.stores[0], "busy", extra="continuation: never\n")
        session = await core.ready()
        assert session.view().continuation == "always"
        await core.start("other", request=StartRequest(profile="busy"))
        assert core.row("other").view().continuation == "never"
        view = await core.policies.set_continuation("alice", "other", ContinuationChoice(continuation="8h"))
        assert view.continuation == "8h"
        files = core.launcher.directories["alice", core.row("other").id].files
        assert files["continuation"] == "8h\n"
        assert '"continuation": "8h"' in files["manifest.json"]
        view = await core.policies.set_continuation("alice", "other", ContinuationChoice(continuation=None))
        assert view.continuation == "never"
        with pytest.raises(NotFoundError):
            await core.policies.set_continuation("bob", "other", ContinuationChoice(continuation="always"))

    play(tmp_path, clock, scene)


def test_a_successor_that_is_not_wanted_any_more_is_cancelled(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        waits = (await with_successor(core, clock)).next_job_id
        assert waits is not None
        await core.policies.set_continuation("alice", "dev", ContinuationChoice(continuation="never"))
        await core.tick()
        assert f"cancel {waits}" in core.scheduler.asked
        assert core.row().state is SessionState.READY
        await core.policies.set_continuation("alice", "dev", ContinuationChoice(continuation="always"))
        await core.tick()
        assert core.row().successor == 3

    play(tmp_path, clock, scene)


def test_who_stops_the_session_stops_its_successor_first(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await with_successor(core, clock)
        await core.sessions.stop("alice", "dev")
        await core.tick()
        cancelled = [asked for asked in core.scheduler.asked if asked.startswith("cancel")]
        assert cancelled == [f"cancel {session.next_job_id}", f"cancel {session.job.job_id}"]
        await core.tick()
        assert core.row().state is SessionState.STOPPED
        await core.start()
        assert core.row().submission == 3, "no number comes twice"

    play(tmp_path, clock, scene)


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED, JobState.OUT_OF_MEMORY, JobState.COMPLETED])
def test_what_was_wanted_or_is_the_sessions_own_fault_is_not_carried_on(
    tmp_path: Path, clock: Clock, state: JobState
) -> None:
    async def scene(core: Core) -> None:
        session = await with_successor(core, clock)
        end(core, session, state)
        await core.tick()
        await core.tick()
        assert core.row().state in {SessionState.STOPPED, SessionState.FAILED}
        assert core.row().job.outcome == state.value
        assert core.live_jobs(session) == {}

    play(tmp_path, clock, scene)


@pytest.mark.parametrize("state", [JobState.PREEMPTED, JobState.NODE_FAIL, JobState.TIMEOUT, JobState.BOOT_FAIL])
def test_what_nobody_foresaw_is_carried_on_by_a_job_that_is_asked_for_then(
    tmp_path: Path, clock: Clock, state: JobState
) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        clock.now += 60
        end(core, session, state)
        await core.tick()
        now = core.row()
        assert (now.state, now.submission) == (SessionState.QUEUED, 2)
        assert core.launcher.submissions() == 2
        end(core, now, state)
        await core.tick()
        assert core.row().state is SessionState.FAILED, "it was not ready in between: it is not tried for ever"

    play(tmp_path, clock, scene)


def test_a_job_that_ends_at_its_limit_with_nothing_to_follow_says_so(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        clock.now += HOUR - 5
        end(core, session, JobState.COMPLETED)
        await core.tick()
        assert core.row().state is SessionState.STOPPED
        assert core.row().reason == "the job reached its time limit; `berth start dev` starts it again"

    play(tmp_path, clock, scene, continuation="never")


def test_a_job_that_ends_by_itself_early_has_not_met_its_limit(tmp_path: Path, clock: Clock) -> None:
    """Slurm says of one that is completing when it has ended, where it says of others when their limit ends them."""

    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.change(session.job.job_id, state=JobState.COMPLETING, ends_at=clock.now + 1)
        await core.tick()
        assert core.row().job.ends_at == session.job.ends_at
        clock.now += 1
        end(core, session, JobState.COMPLETED)
        await core.tick()
        assert (core.row().state, core.row().reason) == (SessionState.STOPPED, "the job ended by itself")
        assert core.launcher.submissions() == 1

    play(tmp_path, clock, scene)


def test_near_the_end_everybody_is_told(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        assert await core.connect.notices("alice") == {}
        clock.now += HOUR - 300
        await core.tick()
        told = await core.connect.notices("alice")
        assert told.keys() == {"dev", ""}
        assert told["dev"].startswith("dev is ready on c1; job ends at ")
        assert told["dev"].endswith(f"(in 5 min), then the session continues in job {core.row().next_job_id}")

    play(tmp_path, clock, scene)
