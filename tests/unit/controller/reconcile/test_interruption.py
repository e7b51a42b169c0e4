"""The loss of a node, a requeue and a drain: what the registry, the events and the greeting of logins say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.node_watch import NODE_QUERY_S
from broker.schema.sessions import SessionState
from broker.text.status import describe_state
from slurm.node_state import NodeCondition
from slurm.scheduler import NoAnswer
from slurm.state import JobState
from tests.unit.controller.reconcile.successors import actions, end, play, start, with_successor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from broker.controller.registry.models import Session
    from slurm.nodes import Node
    from tests.fakes.core import Clock, Core


def remark(core: Core, session: Session) -> dict[str, str]:
    """Return what the greeting of logins reads."""
    text = core.launcher._directory(session.owner, session.id).files["remark"]
    return dict(line.split("=", 1) for line in text.splitlines())


def fail(core: Core, session: Session, *, requeue: bool = True) -> None:
    """The session's node fails, and Slurm requeues the job, or ends it."""
    assert session.job.job_id is not None
    core.scheduler.set_node(session.job.node, NodeCondition.DOWN, "Not responding")
    if requeue:
        core.scheduler.requeue(session.job.job_id)
    else:
        core.scheduler.end(session.job.job_id, JobState.NODE_FAIL)


def nodes_asked(core: Core) -> int:
    return sum(question == "nodes" for question in core.scheduler.asked)


def test_node_loss_is_named_when_slurm_requeues_the_job(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        fail(core, session)
        await core.tick()
        lost = core.row()
        assert (lost.state, lost.job.interruption) == (SessionState.QUEUED, "node c1 failed")
        assert lost.job.interrupted_at == clock.now
        assert describe_state(lost.view(), clock.now).startswith("queued again after an interruption (node c1 failed)")
        assert ("requeued", f"job {session.job.job_id}: node c1 failed") in await actions(core)
        assert ("queued", "BeginTime") not in await actions(core)
        assert remark(core, session)["before"].endswith(": node c1 failed")
        start(core, session.job.job_id, "c2")
        core.announce(core.row(), "c2")
        await core.tick()
        again = core.row()
        assert (again.state, again.job.interruption) == (SessionState.READY, "node c1 failed")
        assert (await core.sessions.jobs("alice", "dev"))[-1].interruption == "node c1 failed"

    play(tmp_path, clock, scene)


def test_requeue_on_a_sound_node_is_no_node_loss(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.requeue(session.job.job_id)
        await core.tick()
        assert core.row().job.interruption == "Slurm requeued the job, which ran on c1"

    play(tmp_path, clock, scene)


def test_completing_job_is_not_requeued_yet(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.change(session.job.job_id, state=JobState.COMPLETING, restarts=1)
        asked = nodes_asked(core)
        for _ in range(3):
            await core.tick()
        assert core.row().job.interruption == ""
        assert nodes_asked(core) == asked, "a job that is slow to complete costs no queries"
        fail(core, session)
        core.scheduler.change(session.job.job_id, restarts=1)
        await core.tick()
        assert core.row().job.interruption == "node c1 failed"

    play(tmp_path, clock, scene)


@pytest.mark.parametrize("requeue", [True, False])
def test_node_loss_is_named_when_a_successor_continues(tmp_path: Path, clock: Clock, requeue: bool) -> None:
    async def scene(core: Core) -> None:
        session = await with_successor(core, clock)
        fail(core, session, requeue=requeue)
        await core.tick()
        now = core.row()
        assert (now.submission, now.state) == (2, SessionState.QUEUED)
        assert now.job.interruption == "node c1 failed"
        assert remark(core, session)["before"].endswith(": node c1 failed")
        outcome = "REQUEUED" if requeue else "NODE_FAIL"
        detail = f"job {session.job.job_id} has ended ({outcome} node c1 failed); job {session.next_job_id} continues"
        assert ("continue", f"{detail} the session") in await actions(core)

    play(tmp_path, clock, scene)


def test_node_loss_is_named_when_another_job_is_requested(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        fail(core, session, requeue=False)
        await core.tick()
        now = core.row()
        assert (now.submission, now.job.interruption) == (2, "node c1 failed")
        files = core.launcher._directory(session.owner, session.id).files
        assert ": node c1 failed\n" in files["job.env"]
        assert files["remark"] == ""

    play(tmp_path, clock, scene)


def test_end_at_the_time_limit_is_no_interruption(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await with_successor(core, clock)
        end(core, session)
        await core.tick()
        assert core.row().job.interruption == ""
        assert remark(core, session)["before"].endswith("the job reached its time limit")

    play(tmp_path, clock, scene)


def test_drain_is_named_until_the_node_takes_jobs_again(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        core.scheduler.set_node("c1", NodeCondition.DRAINING, "new kernel\x1b[2J" + "x" * 300)
        clock.now += NODE_QUERY_S
        await core.tick()
        now = core.row()
        assert (now.state, now.job.node_condition) == (SessionState.READY, "draining")
        assert now.job.node_reason.startswith("new kernel[2Jx")
        assert len(now.job.node_reason) == 200
        assert "; node c1 takes no new jobs (new kernel[2Jx" in describe_state(now.view(), clock.now)
        assert "the job continues until " in remark(core, session)["notice"]
        action, detail = (await actions(core))[-1]
        assert (action, detail.startswith("node c1 takes no new jobs")) == ("node", True)
        assert await core.connect.notices("alice")
        core.scheduler.set_node("c1", NodeCondition.UP)
        clock.now += NODE_QUERY_S
        await core.tick()
        assert core.row().job.node_condition == core.row().job.node_reason == ""
        assert (await actions(core))[-1] == ("node", "node c1 takes new jobs again")
        assert "notice" not in remark(core, session)
        assert not await core.connect.notices("alice")

    play(tmp_path, clock, scene)


def test_unknown_state_of_the_job_leaves_the_condition_of_its_node(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.set_node("c1", NodeCondition.DRAINING)
        clock.now += NODE_QUERY_S
        await core.tick()
        core.scheduler.change(session.job.job_id, state=JobState.UNKNOWN)
        await core.tick()
        assert (core.row().state, core.row().job.node_condition) == (SessionState.READY, "draining")

    play(tmp_path, clock, scene)


def test_drain_of_the_former_node_does_not_follow_the_job(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.set_node("c1", NodeCondition.DRAINING)
        clock.now += NODE_QUERY_S
        await core.tick()
        core.scheduler.requeue(session.job.job_id)  # between two ticks it waits, and starts elsewhere
        start(core, session.job.job_id, "c2")
        await core.tick()
        assert (core.row().job.node, core.row().job.node_condition) == ("c2", "")
        assert "takes new jobs again" not in str(await actions(core))

    play(tmp_path, clock, scene)


def test_nodes_are_queried_at_intervals_and_only_for_running_jobs(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.start()
        await core.tick()
        assert nodes_asked(core) == 0
        await core.ready("other")
        for _ in range(10):
            await core.tick()
        assert nodes_asked(core) == 1
        clock.now += NODE_QUERY_S
        await core.tick()
        assert nodes_asked(core) == 2

    play(tmp_path, clock, scene)


def test_missing_answer_about_nodes_proves_nothing(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.set_node("c1", NodeCondition.DRAINING)
        clock.now += NODE_QUERY_S
        await core.tick()

        async def nodes() -> Mapping[str, Node]:
            raise NoAnswer("scontrol: timed out")

        monkeypatch.setattr(core.cluster_answers.nodes, "_ask", nodes)
        clock.now += NODE_QUERY_S
        await core.tick()
        assert (core.row().state, core.row().job.node_condition) == (SessionState.READY, "draining")
        core.scheduler.requeue(session.job.job_id)
        await core.tick()
        assert core.row().job.interruption == "Slurm requeued the job, which ran on c1"

    play(tmp_path, clock, scene)


def test_session_whose_greeting_cannot_be_written_continues(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        session = await core.ready()
        core.launcher.failures["install"] = LauncherError("space", "No space left on device")
        fail(core, session)
        await core.tick()
        assert core.row().job.interruption == "node c1 failed"

    play(tmp_path, clock, scene)
