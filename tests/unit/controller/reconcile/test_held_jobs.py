"""A session that is stopped for an operation keeps its job: what the controller asks for, in good and in bad cases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.held_jobs import HOLD_TIMEOUT_S, LEAST_LEFT_S
from broker.errors import ConflictError
from broker.schema.sessions import SessionState
from broker.schema.states import HELD
from broker.schema.volumes import RollbackRequest
from broker.text.status import describe_state
from slurm.state import JobState
from tests.fakes.core import Clock
from tests.unit.controller.sessions.session_volumes import SNAPSHOT, begun, end_job, read, wait_for_operation, write

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from broker.controller.registry.models import Session
    from tests.fakes.core import Core


def asked(core: Core, *verbs: str) -> list[str]:
    """Return the calls of these verbs to the launcher, without the user."""
    return [words.split()[0] for words in core.launcher.asked if words.split()[0] in verbs]


def cancelled(core: Core) -> list[str]:
    return [words for words in core.scheduler.asked if words.startswith("cancel ")]


async def restarted(core: Core) -> Session:
    """The session, after a restart that was answered, before its new sshd listens."""
    await core.ready()
    await wait_for_operation(core, core.container_changes.restart("alice", "dev"))
    await core.settle()
    await core.tick()
    return core.row()


def test_a_restart_keeps_the_job_and_gets_a_new_run_id(core: Core) -> None:
    async def scenario() -> None:
        before = await core.ready()
        after = await restarted(core)
        assert (after.job.job_id, after.submission) == (before.job.job_id, before.submission + 1)
        assert asked(core, "submit", "hold", "begin") == ["submit", "hold", "begin"]
        assert cancelled(core) == []
        assert f"BERTH_JOB={before.job.job_id}\n" in core.launcher.directories["alice", after.id].files["job.env"]
        assert after.state is SessionState.STARTING, "the endpoint in the comment is that of the run before"
        core.announce(after, port=20002)
        await core.tick()
        assert (core.row().state, core.row().job.port) == (SessionState.READY, 20002)
        assert core.row().held_job_id is None
        first, second = core.registry.jobs_of(after.id)
        assert (first.outcome, first.job_id) == (HELD, second.job_id)
        assert first.ended_at is not None
        assert second.started_at is not None
        assert second.started_at >= first.ended_at, "the time of the job is counted once"

    asyncio.run(scenario())


def test_operation_begins_as_soon_as_the_job_waits(core: Core) -> None:
    """A user waits for it: it does not wait for the next tick."""

    async def scenario() -> None:
        await core.ready()
        await begun(core, core.container_changes.restart("alice", "dev"))
        core.holder.hold(core.row())
        await core.settle()
        assert (core.row().submission, core.row().pending) == (2, None)

    asyncio.run(scenario())


def test_a_rollback_changes_the_volumes_while_the_job_waits(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        write(core, "old")
        await wait_for_operation(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))
        write(core, "new")
        await wait_for_operation(core, core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")))
        await core.settle()
        await core.tick()
        assert read(core) == "old"
        assert asked(core, "hold", "rollback", "begin") == ["hold", "rollback", "begin"]
        assert cancelled(core) == []
        assert core.row().job.job_id == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["conflict", "ended", "files"])
def test_a_job_that_cannot_wait_is_cancelled_and_followed_by_another(core: Core, kind: str) -> None:
    async def scenario() -> None:
        core.launcher.failures["hold"] = LauncherError(kind, "no")
        after = await restarted(core)
        for _ in range(3):
            await core.tick()
            await core.settle()
        after = core.row()
        assert cancelled(core) == ["cancel 1"]
        assert after.job.job_id == 2
        assert asked(core, "submit", "begin") == ["submit", "submit"]

    asyncio.run(scenario())


def test_an_unclear_answer_is_asked_for_again_with_the_same_id(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        clock = Clock().install(monkeypatch)
        await core.ready()
        core.launcher.loses["hold"] = 1
        await begun(core, core.container_changes.restart("alice", "dev"))
        await core.tick()
        await core.settle()
        assert core.row().state is SessionState.STOPPING
        clock.now += 5
        for _ in range(3):
            await core.tick()
            await core.settle()
        assert asked(core, "hold", "begin") == ["hold", "hold", "begin"]
        assert core.row().job.job_id == 1

    asyncio.run(scenario())


def test_a_launcher_that_never_answers_ends_in_a_new_job(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        clock = Clock().install(monkeypatch)
        await core.ready()
        core.launcher.failures["hold"] = LauncherError("unclear", "Slurm does not answer")
        await begun(core, core.container_changes.restart("alice", "dev"))
        await core.tick()
        await core.settle()
        assert cancelled(core) == []
        clock.now += HOLD_TIMEOUT_S + 1
        for _ in range(4):
            await core.tick()
            await core.settle()
        assert cancelled(core) == ["cancel 1"]
        assert core.row().job.job_id == 2

    asyncio.run(scenario())


def test_a_job_that_ends_while_it_waits_is_followed_by_another(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        core.launcher.failures["begin"] = LauncherError("ended", "job 1 has ended")
        await wait_for_operation(core, core.container_changes.restart("alice", "dev"))
        await core.settle()
        await core.tick()
        assert asked(core, "hold", "begin", "submit") == ["submit", "hold", "begin", "submit"]
        assert (core.row().job.job_id, core.row().held_job_id) == (2, None)
        assert "BERTH_JOB" not in core.launcher.directories["alice", core.row().id].files["job.env"]

    asyncio.run(scenario())


def test_a_lost_answer_of_the_job_that_begins_changes_nothing(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        core.launcher.loses["begin"] = 1
        await wait_for_operation(core, core.container_changes.restart("alice", "dev"))
        await core.settle()
        await core.tick()
        row = core.row()
        assert (row.state, row.job.job_id, row.held_job_id) == (SessionState.SUBMITTING, None, 1)
        assert describe_state(row.view(), 0.0) == "starting again in its job"
        assert cancelled(core) == [], "the job that waits is no stranger"
        core.scheduler.change(1, comment=f"berth:{row.id}:{row.submission}")
        await core.tick()
        assert (core.row().job.job_id, core.row().held_job_id) == (1, None)
        assert core.row().job.began_at is not None
        assert asked(core, "submit") == ["submit"]
        queued = core.row()
        queued.state = SessionState.QUEUED
        assert describe_state(queued.view(), 0.0) == "starting again in its job"

    asyncio.run(scenario())


def test_a_stop_while_the_job_waits_ends_it(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        core.launcher.loses["begin"] = 1
        await wait_for_operation(core, core.container_changes.restart("alice", "dev"))
        await core.settle()
        await core.sessions.stop("alice", "dev")
        await core.tick()
        assert cancelled(core) == ["cancel 1"]
        assert core.row().held_job_id is None or core.row().state is SessionState.STOPPING

    asyncio.run(scenario())


async def near_its_time_limit(core: Core) -> None:
    left = core.row().job.ends_at
    assert left is not None
    core.scheduler.change(1, ends_at=left - 3600 + LEAST_LEFT_S - 10)
    await core.tick()


async def queued_again(core: Core) -> None:
    core.scheduler.requeue(1)
    await core.tick()


@pytest.mark.parametrize("change", [near_its_time_limit, queued_again])
def test_a_job_that_cannot_carry_the_next_run_is_not_asked(
    core: Core, change: Callable[[Core], Coroutine[None, None, None]]
) -> None:
    async def scenario() -> None:
        await core.ready()
        await change(core)
        await begun(core, core.container_changes.restart("alice", "dev"))
        for _ in range(4):
            await core.tick()
            await core.settle()
        assert asked(core, "hold") == []
        assert cancelled(core) == ["cancel 1"]
        assert core.row().job.job_id == 2

    asyncio.run(scenario())


def test_only_a_session_with_a_job_can_be_restarted(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        with pytest.raises(ConflictError, match="stopped") as refused:
            await core.container_changes.restart("alice", "dev")
        assert "berth start dev" in refused.value.hint

    asyncio.run(scenario())


def test_a_restart_ends_root_mode(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        await wait_for_operation(core, core.container_changes.root("alice", "dev"))
        await core.settle()
        await core.tick()
        core.announce(core.row())
        await core.tick()
        assert (core.row().state, core.row().root) == (SessionState.READY, True)
        await wait_for_operation(core, core.container_changes.restart("alice", "dev"))
        await core.settle()
        assert not core.row().root
        assert "BERTH_ROOT" not in core.launcher.directories["alice", core.row().id].files["job.env"]
        assert core.row().job.job_id == 1

    asyncio.run(scenario())


def test_a_job_that_fails_while_it_gives_up_the_volumes_is_followed_by_another(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        core.launcher.hangs["hold"] = "before"
        await begun(core, core.container_changes.restart("alice", "dev"))
        await core.reconciler.tick()
        await core.launcher.stuck.wait()
        end_job(core, JobState.OUT_OF_MEMORY)
        while core.row().job.job_id != 2:
            await core.reconciler.tick()
            await asyncio.sleep(0.001)
        assert asked(core, "begin") == []

    asyncio.run(scenario())
