"""Requests of users in every state: the results, and the users who are notified."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.registry.registry import EventEntry
from broker.errors import BerthError, ConflictError, InvalidInputError, NotFoundError
from broker.schema.sessions import LIVE, SessionState, StartRequest
from slurm.state import JobState
from tests.deadlines import DEADLINE_S
from tests.fakes.core import BASE, Core, publish, site_config
from tests.fakes.launcher import FakeLauncher, SlowLauncher
from tests.fakes.rows import HOST_KEY, make_session
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from pathlib import Path

KEY = HOST_KEY.rsplit(" ", 1)[0]


def put(core: Core, state: SessionState, **values: Any) -> None:  # noqa: ANN401 - columns of several types
    columns: dict[str, Any] = {"node": "c1", "port": 20001, "fingerprint": "SHA256:x", "host_key": ""} | values
    row = make_session(state=state, digest=core.stores.find("base").digest, **columns)
    core.registry.create(row, EventEntry("alice", "start"))


def test_a_new_session_takes_the_newest_version_and_keeps_it(core: Core) -> None:
    async def scenario() -> None:
        view = await core.start()
        assert (view.profile, view.version, view.generation) == ("base", "1", "1.0")
        publish(core.stores.stores[0], version="2")
        assert view.job_id is not None
        core.scheduler.end(view.job_id)
        await core.tick()
        again = await core.start(request=StartRequest())
        assert (again.version, again.generation, again.job_id) == ("1", "2.0", 2)
        assert (await core.start("other")).version == "2"

    asyncio.run(scenario())


def test_what_cannot_be_started_says_why(core: Core) -> None:
    async def scenario() -> None:
        with pytest.raises(NotFoundError) as nameless:
            await core.start(request=StartRequest())
        assert "--profile" in nameless.value.hint
        with pytest.raises(NotFoundError):
            await core.start(request=StartRequest(profile="nothing"))
        with pytest.raises(InvalidInputError):
            await core.start(request=StartRequest(profile="base", options=["--wrap=id"]))
        assert core.registry.in_states(SessionState) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("state", sorted(LIVE - {SessionState.STOPPING}))
def test_a_start_of_a_session_on_its_way_changes_nothing(core: Core, state: SessionState) -> None:
    async def scenario() -> None:
        put(core, state, options=["--mem=1G", "--time=60"])
        before = core.row()
        assert (await core.start()).state is state
        for same in (["--mem=1G"], ["--time=60", "--mem=1G"]):
            assert (await core.start(request=StartRequest(options=same))).state is state
        with pytest.raises(ConflictError, match="other options") as refused:
            await core.start(request=StartRequest(options=["--mem=2G"]))
        assert str(refused.value.hint).startswith(
            "`berth resize dev --mem=2G` changes a ready session, or `berth stop dev` first"
        )
        with pytest.raises(ConflictError, match="other options"):
            await core.start(request=StartRequest(reset_options=True))
        with pytest.raises(ConflictError, match="created from"):
            await core.start(request=StartRequest(profile="other"))
        assert core.row() == before
        assert core.launcher.asked == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (StartRequest(), ["--mem=1G", "--gres=gpu:1"]),
        (StartRequest(options=["--mem=4G"]), ["--gres=gpu:1", "--mem=4G"]),
        (StartRequest(options=["--mem-per-cpu=4G"]), ["--gres=gpu:1", "--mem-per-cpu=4G"]),
        (StartRequest(reset_options=True), []),
        (StartRequest(options=["--mem=4G"], reset_options=True), ["--mem=4G"]),
    ],
    ids=["nothing", "one option", "an alternative", "reset", "reset and one option"],
)
def test_options_of_a_later_start_change_those_and_keep_the_others(
    core: Core, request_: StartRequest, options: list[str]
) -> None:
    async def scenario() -> None:
        put(core, SessionState.STOPPED, options=["--mem=1G", "--gres=gpu:1"])
        await core.start(request=request_)
        assert (core.row().options, core.row().job.options, core.row().job.gpus) == (
            options,
            options,
            1 if "--gres=gpu:1" in options else 0,
        )

    asyncio.run(scenario())


@pytest.mark.parametrize("state", [SessionState.STOPPING, SessionState.CHANGING, SessionState.DELETING])
def test_a_session_that_is_ending_is_not_started(core: Core, state: SessionState) -> None:
    async def scenario() -> None:
        put(core, state)
        with pytest.raises(ConflictError, match=state.value):
            await core.start()

    asyncio.run(scenario())


@pytest.mark.parametrize("state", [SessionState.STOPPED, SessionState.FAILED])
def test_a_start_anew_forgets_the_last_job_and_keeps_the_options(core: Core, state: SessionState) -> None:
    async def scenario() -> None:
        put(core, state, job_id=70, node="c9", outcome="TIMEOUT", ended_at=5.0, options=["--mem=3G"], cancelled_at=4.0)
        view = await core.start()
        assert (view.job_id, view.outcome, view.ended_at, view.generation) == (1, "", None, "2.0")
        assert core.row().job.cancelled_at is None
        assert "submit alice 2 --mem=3G" in core.launcher.asked

    asyncio.run(scenario())


def test_of_several_starts_at_once_one_submits(core: Core) -> None:
    async def scenario() -> None:
        put(core, SessionState.STOPPED)
        views = await asyncio.gather(*(core.start() for _ in range(8)))
        assert {view.generation for view in views} == {"2.0"}
        assert core.launcher.submissions() == 1
        await core.tick()
        assert len(core.live_jobs(core.row())) == 1

    asyncio.run(scenario())


def test_a_start_that_comes_second_does_not_submit_what_is_submitted(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its first look and its change another start has gone all the way."""

    async def scenario() -> None:
        put(core, SessionState.STOPPED)
        old = core.row()
        await core.start()
        monkeypatch.setattr(core.registry, "find", lambda *_: old)
        assert (await core.start()).job_id == 1
        assert core.launcher.submissions() == 1

    asyncio.run(scenario())


def test_start_answers_before_a_slow_sbatch_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr("broker.controller.sessions.lifecycle.ANSWER_TIMEOUT_S", 0.05)
        launcher = SlowLauncher(FakeScheduler())
        core = Core.make(site_config(tmp_path), launcher)
        assert (await core.start()).state is SessionState.SUBMITTING
        assert (await core.start()).state is SessionState.SUBMITTING
        launcher.let_go.set()
        await core.settle()
        assert core.row().job.job_id == 1
        assert launcher.submissions() == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("state", [state for state in SessionState if state is not SessionState.DELETED])
def test_stop_and_delete_in_every_state(core: Core, state: SessionState) -> None:
    async def scenario() -> None:
        put(core, state, job_id=7)
        if state in LIVE | {SessionState.DELETING, SessionState.CHANGING}:
            if state is SessionState.DELETING:
                assert (await core.sessions.delete("alice", "dev")).state is state
            else:
                with pytest.raises(ConflictError) as failure:
                    await core.sessions.delete("alice", "dev")
                assert "berth stop dev" in failure.value.hint
            stopped = await core.sessions.stop("alice", "dev")
            assert stopped.state is (SessionState.STOPPING if state in LIVE else state)
        else:
            assert (await core.sessions.stop("alice", "dev")).state is SessionState.STOPPED
            assert (await core.sessions.delete("alice", "dev")).state is SessionState.DELETING

    asyncio.run(scenario())


def test_nobody_does_anything_to_what_is_not_theirs(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        verbs = core.sessions
        for call in (
            verbs.stop("bob", "dev"),
            verbs.delete("bob", "dev"),
            verbs.show("bob", "dev"),
            verbs.log("bob", "dev", 10),
            verbs.events("bob", "dev"),
            core.connect.connect("bob", "alice.dev.berth"),
            core.connect.connect("bob", "dev"),
        ):
            with pytest.raises(NotFoundError):
                await call
        assert await verbs.all("bob") == []
        assert await verbs.events("bob") == []

    asyncio.run(scenario())


def test_a_wait_ends_with_the_next_change_or_its_time(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        revision = core.row().revision
        assert (await core.sessions.show("alice", "dev", after=revision, wait=0.01)).revision == revision
        waiting = asyncio.create_task(core.sessions.show("alice", "dev", after=revision, wait=10 * DEADLINE_S))
        await asyncio.sleep(0)
        await core.sessions.stop("alice", "dev")
        async with asyncio.timeout(DEADLINE_S):
            assert (await waiting).state is SessionState.STOPPING

    asyncio.run(scenario())


def test_a_wait_ends_when_the_session_goes(core: Core) -> None:
    async def scenario() -> None:
        put(core, SessionState.STOPPED)
        await core.sessions.delete("alice", "dev")
        waiting = asyncio.create_task(
            core.sessions.show("alice", "dev", after=core.row().revision, wait=10 * DEADLINE_S)
        )
        await asyncio.sleep(0)
        await core.tick()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(NotFoundError):
                await waiting

    asyncio.run(scenario())


@pytest.mark.parametrize("target", ["dev", "dev.berth", "alice.dev.berth", "DEV.berth"])
def test_a_ready_session_is_where_its_job_said(core: Core, target: str) -> None:
    async def scenario() -> None:
        session = await core.ready()
        answer = await core.connect.connect("alice", target)
        assert (answer.host, answer.port, answer.generation) == ("c1", 20001, "1.0")
        assert answer.fingerprint == session.job.fingerprint

    asyncio.run(scenario())


@pytest.mark.parametrize("state", [s for s in SessionState if s not in {SessionState.READY, SessionState.DELETED}])
def test_every_other_state_refuses_in_one_line(tmp_path: Path, state: SessionState) -> None:
    async def scenario() -> None:
        settings = {"connect_wait": 0, "start_on_connect": False}
        core = Core.make(site_config(tmp_path, ssh=settings), FakeLauncher(FakeScheduler()))
        put(core, state, reason="Resources", node="c1", port=20001)
        with pytest.raises(ConflictError) as failure:
            await core.connect.connect("alice", "dev")
        assert failure.value.message.startswith("dev is ")
        assert "\n" not in failure.value.message

    asyncio.run(scenario())


def test_the_sessions_keys_are_brought_up_to_date_before_somebody_connects(core: Core) -> None:
    async def scenario() -> None:
        session = await core.ready()
        files = core.launcher.directories["alice", session.id].files
        assert files["authorized_keys"] == ""
        await core.keys.add("alice", HOST_KEY)
        await core.connect.connect("alice", "dev")
        assert files["authorized_keys"].startswith(KEY)
        asked = core.launcher.asked.count("install alice")
        await core.connect.connect("alice", "dev")
        assert core.launcher.asked.count("install alice") == asked == 1

    asyncio.run(scenario())


def test_the_log_and_the_events_tell_what_happened(core: Core) -> None:
    async def scenario() -> None:
        session = await core.ready()
        core.launcher.directories["alice", session.id].log = "0123456789"
        assert await core.sessions.log("alice", "dev", 4) == "6789"
        await core.sessions.stop("alice", "dev")
        await core.tick()
        await core.tick()
        told = [(event.actor, event.action) for event in await core.sessions.events("alice", "dev")]
        assert told == [
            ("alice", "start"),
            ("berth", "submitted"),
            ("berth", "ready"),
            ("alice", "stop"),
            ("berth", "stopped"),
        ]

    asyncio.run(scenario())


def test_a_name_is_free_again_after_its_session_was_deleted(core: Core) -> None:
    async def scenario() -> None:
        session = await core.ready()
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id, JobState.FAILED)
        await core.tick()
        await core.sessions.delete("alice", "dev")
        await core.tick()
        assert (await core.start(request=BASE)).id != session.id

    asyncio.run(scenario())


def test_a_user_without_sessions_gets_an_empty_list_and_no_error(core: Core) -> None:
    async def scenario() -> None:
        assert await core.sessions.all("carol") == []
        with pytest.raises(BerthError):
            await core.connect.connect("carol", "no such name")

    asyncio.run(scenario())
