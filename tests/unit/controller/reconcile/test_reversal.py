"""A session that does not become ready in its kept job is as before, in the same job, and its owner reads why."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import NoSpaceError
from broker.schema.sessions import SessionState
from broker.schema.states import NOT_READY
from broker.schema.volumes import RollbackRequest, SwitchRequest
from profiles.image.store import Store
from slurm.state import JobState
from tests.fakes.core import Clock, Core, publish
from tests.unit.controller.sessions.session_volumes import SNAPSHOT, begun, end_job, read, wait_for_operation, write

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from broker.controller.registry.models import Session
    from broker.schema.sessions import SessionView

BECAUSE = "the image has no /usr/sbin/sshd"
OPERATIONS: dict[str, Callable[[Core], Coroutine[None, None, SessionView]]] = {
    "rollback": lambda core: core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")),
    "switch": lambda core: core.container_changes.switch("alice", "dev", SwitchRequest(profile="other")),
    "restart": lambda core: core.container_changes.restart("alice", "dev"),
    "root": lambda core: core.container_changes.root("alice", "dev"),
}


@pytest.fixture(params=OPERATIONS)
def verb(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def prepared(core: Core) -> Session:
    """A session that runs, with a snapshot 1 of another content than the present one."""
    publish(Store(core.config.profiles.stores[0]), "other", content=b"other")
    await core.ready()
    write(core, "old")
    await wait_for_operation(core, core.snapshots.snapshot("alice", "dev", SNAPSHOT))
    write(core, "new")
    return core.row()


async def starting(core: Core, verb: str) -> Session:
    """The session in its first run after that operation, which has not become ready."""
    await prepared(core)
    await wait_for_operation(core, OPERATIONS[verb](core))
    await ticks(core, 2)
    assert core.row().state is SessionState.STARTING
    return core.row()


async def ticks(core: Core, number: int) -> Session:
    for _ in range(number):
        await core.tick()
    return core.row()


async def undone(core: Core, verb: str) -> Session:
    core.fail_to_start(await starting(core, verb), BECAUSE)
    return await ticks(core, 5)


def fail_once(core: Core, error: LauncherError) -> None:
    """Let the next request to begin a run fail."""
    begin = core.launcher.begin

    async def fail(*_: object, **__: object) -> None:
        core.launcher.begin = begin  # type: ignore[method-assign]
        raise error

    core.launcher.begin = fail  # type: ignore[method-assign]


def job_env(core: Core) -> str:
    return core.launcher.directories["alice", core.row().id].files["job.env"]


def cancelled(core: Core) -> list[str]:
    return [words for words in core.scheduler.asked if words.startswith("cancel ")]


def test_the_session_is_as_before_in_the_same_job(core: Core, verb: str) -> None:
    async def scenario() -> None:
        session = await undone(core, verb)
        assert session.state is SessionState.STARTING
        assert (session.job.job_id, session.submission, session.root) == (1, 3, False)
        assert (session.profile, read(core)) == ("base", "new")
        assert cancelled(core) == []
        assert "BERTH_PROFILE=base\n" in job_env(core)
        core.announce(session)
        assert (await ticks(core, 1)).state is SessionState.READY

    asyncio.run(scenario())


def test_the_owner_reads_what_happened_and_why(core: Core, verb: str) -> None:
    async def scenario() -> None:
        operation = (await undone(core, verb)).view().operation
        assert operation is not None
        assert (operation.verb, operation.status, operation.reversed) == (verb, "failed", True)
        assert BECAUSE in operation.message
        assert f"it starts again as it was before the {verb}" in operation.message
        assert "berth logs dev" in operation.hint
        events = [event.action for event in core.registry.events_of("alice", core.row().id)]
        assert [action for action in events if action.startswith(verb)][-2:] == [f"{verb}-done", f"{verb}-undone"]
        run = core.registry.jobs_of(core.row().id)[1]
        assert (run.outcome, run.reason) == (NOT_READY, f"the {verb} was undone: {BECAUSE}")
        before = [line for line in job_env(core).splitlines() if line.startswith("BERTH_BEFORE=")]
        assert before[0].endswith(f": the {verb} was undone: {BECAUSE}")

    asyncio.run(scenario())


def test_only_the_first_run_may_be_undone(core: Core, verb: str) -> None:
    async def scenario() -> None:
        await starting(core, verb)
        assert "BERTH_READY_LIMIT=300\n" in job_env(core)
        core.fail_to_start(core.row())
        await ticks(core, 5)
        assert "BERTH_READY_LIMIT" not in job_env(core)

    asyncio.run(scenario())


def test_a_session_that_does_not_start_as_before_either_has_failed(core: Core, verb: str) -> None:
    async def scenario() -> None:
        session = await undone(core, verb)
        core.fail_to_start(session)  # a job would end here: it waits only where the controller asked for it
        session = await ticks(core, 3)
        assert session.state is SessionState.FAILED
        assert cancelled(core) == ["cancel 1"]
        end_job(core)
        assert (await ticks(core, 3)).state is SessionState.FAILED
        assert session.submission == 3

    asyncio.run(scenario())


def test_a_stop_meanwhile_ends_in_the_former_state(core: Core, verb: str) -> None:
    async def scenario() -> None:
        core.fail_to_start(await starting(core, verb))
        core.launcher.hangs["hold"] = "before"
        await core.reconciler.tick()
        await core.reconciler.tick()
        await core.launcher.stuck.wait()
        await core.sessions.stop("alice", "dev")
        await core.reconciler.tick()
        assert cancelled(core) == ["cancel 1"]
        end_job(core)
        core.launcher.held.clear()
        for _ in range(5):
            await core.reconciler.tick()
            await asyncio.sleep(0.01)
        session = core.row()
        assert (session.state, session.profile, read(core)) == (SessionState.STOPPED, "base", "new")
        assert session.view().operation is not None
        await core.kill()

    asyncio.run(scenario())


def test_a_job_that_ends_meanwhile_is_followed_by_another_as_before(core: Core, verb: str) -> None:
    async def scenario() -> None:
        core.fail_to_start(await starting(core, verb))
        core.launcher.failures["hold"] = LauncherError("ended", "job 1 has ended")
        await ticks(core, 1)
        core.scheduler.end(1, JobState.NODE_FAIL)
        session = await ticks(core, 4)
        assert (session.job.job_id, session.profile, read(core)) == (2, "base", "new")

    asyncio.run(scenario())


@pytest.mark.parametrize("after", range(1, 6))
def test_a_controller_that_starts_again_continues(core: Core, clock: Clock, verb: str, after: int) -> None:
    async def scenario() -> None:
        core.fail_to_start(await starting(core, verb), BECAUSE)
        for _ in range(after):
            await core.reconciler.tick()
        await core.kill()
        again = Core.make(core.config, core.launcher)
        await ticks(again, 3)
        clock.now += 70  # a request to begin that was under way is repeated after slurm.submit_grace
        session = await ticks(again, 4)
        assert (session.profile, read(again), session.job.job_id) == ("base", "new", 1)
        operation = session.view().operation
        assert operation is not None
        assert operation.reversed
        again.announce(session)
        assert (await ticks(again, 1)).state is SessionState.READY
        await again.kill()

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["missing", "space"])
def test_what_cannot_be_undone_has_failed_with_both_reasons(core: Core, kind: str) -> None:
    async def scenario() -> None:
        core.fail_to_start(await starting(core, "rollback"), BECAUSE)
        core.launcher.failures["rollback"] = LauncherError(kind, "there is no snapshot 2")
        session = await ticks(core, 5)
        assert session.state is SessionState.FAILED
        assert BECAUSE in session.reason
        assert "there is no snapshot 2" in session.reason
        assert "berth snapshots dev" in session.reason
        assert cancelled(core) == ["cancel 1"]
        assert read(core) == "old"

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [LauncherError("space", "Disk quota exceeded"), LauncherError("files", "no")])
def test_a_next_run_that_cannot_be_requested_is_undone(core: Core, verb: str, error: LauncherError) -> None:
    async def scenario() -> None:
        await prepared(core)
        fail_once(core, error)
        await wait_for_operation(core, OPERATIONS[verb](core))
        await ticks(core, 3)
        operation = core.row().view().operation
        assert operation is not None
        assert operation.reversed
        session = await ticks(core, 3)
        assert (session.state, session.job.job_id) == (SessionState.STARTING, 1)
        assert (session.profile, read(core)) == ("base", "new")

    asyncio.run(scenario())


def test_an_image_that_is_gone_when_it_should_start_leads_back(core: Core) -> None:
    async def scenario() -> None:
        await prepared(core)
        core.launcher.hangs["switch"] = "before"
        asked = await begun(core, OPERATIONS["switch"](core))
        while not core.launcher.stuck.is_set():
            await core.reconciler.tick()
            await asyncio.sleep(0.001)
        store = core.config.profiles.stores[0]
        (store / "other").rename(store.parent / "gone")
        await core.kill()
        core.launcher.hangs.clear()
        again = Core.make(core.config, core.launcher)
        session = await ticks(again, 7)
        operation = session.view().operation
        assert operation is not None
        assert asked.operation is not None
        assert (operation.id, operation.reversed) == (asked.operation.id, True)
        assert (session.profile, read(again), session.job.job_id) == ("base", "new", 1)
        await again.kill()

    asyncio.run(scenario())


def test_without_room_for_the_request_the_session_runs_as_before(core: Core, verb: str) -> None:
    async def scenario() -> None:
        before = await prepared(core)
        core.launcher.failures["hold"] = LauncherError("space", "Disk quota exceeded")
        with pytest.raises(NoSpaceError):
            await wait_for_operation(core, OPERATIONS[verb](core))
        session = await ticks(core, 2)
        assert (session.state, session.endpoint, session.job.job_id) == (SessionState.READY, before.endpoint, 1)
        assert cancelled(core) == []
        assert (session.profile, read(core)) == ("base", "new")

    asyncio.run(scenario())


@pytest.mark.parametrize("lie", [{"submission": 1}, {"restarts": 1}])
def test_a_report_of_another_run_changes_nothing(core: Core, lie: dict[str, int]) -> None:
    async def scenario() -> None:
        session = await starting(core, "restart")
        said = {"submission": session.submission, "restarts": 0} | lie
        comment = f"berth:{session.id}:{said['submission']}:{said['restarts']}:not-ready"
        core.scheduler.change(1, comment=comment)
        assert (await ticks(core, 3)).submission == session.submission
        assert core.row().state is SessionState.STARTING

    asyncio.run(scenario())
