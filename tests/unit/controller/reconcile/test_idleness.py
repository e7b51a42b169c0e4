"""Sessions that nothing uses: what counts as use, the warning, the stop, and what is said of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from broker.controller.reconcile.idle import WARNING_S
from broker.controller.sessions.connections import KEEPALIVE_BYTES
from broker.errors import ConflictError
from broker.names import new_id
from broker.schema.connections import CONNECTION_TIMEOUT_S, ConnectionRecord, ConnectionReport
from broker.schema.sessions import IdleChoice, SessionState, StartRequest, StopTime
from broker.text.status import describe_deadline
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ScriptedController, ready
from tests.fakes.core import Clock, Core, publish, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

HOUR = 3600.0


def play(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[Core, Clock], Awaitable[None]],
    site: str = "never",
) -> None:
    clock = Clock().install(monkeypatch)

    async def scene() -> None:
        launcher = FakeLauncher(FakeScheduler(now=clock.time))
        core = Core.make(site_config(tmp_path, slurm={"idle": site}), launcher)
        clock.now += CONNECTION_TIMEOUT_S
        await scenario(core, clock)

    asyncio.run(scene())


def file(core: Core, name: str, session: str = "dev") -> str:
    """Return a file that the controller has written for the session's job."""
    return core.launcher.directories["alice", core.row(session).id].files[name]


async def says(core: Core, idle: float | str = "", gpu: float | str = "") -> None:
    """The session's job says since when it is idle, and the controller has looked and acted."""
    if idle or gpu:
        core.announce(core.row(), idle=str(idle).partition(".")[0], gpu=str(gpu).partition(".")[0])
    else:
        core.announce(core.row())
    await core.tick()
    await core.tick()


async def carries(core: Core, clock: Clock, connection: str, count: int) -> None:
    session = core.row()
    record = ConnectionRecord(
        id=connection,
        user="alice",
        session_id=session.id,
        generation=session.generation,
        began_at=clock.now,
        received=count,
    )
    await core.connections.note(ConnectionReport(gateway="gw1", connections=[record]), None)


def test_it_is_warned_then_stopped_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        await core.ready()
        began = clock.now
        clock.now += 8 * HOUR - WARNING_S - 1
        await says(core, began)
        assert core.row().job.idle_stop_at is None
        assert core.row().view().idle_since == pytest.approx(began, abs=1)
        clock.now += 2
        await core.tick()
        at = core.row().job.idle_stop_at or 0.0
        assert at == pytest.approx(began + 8 * HOUR, abs=3)
        assert file(core, "idle") == f"8h\n{int(at)}\n"
        assert "idle since " in describe_deadline(core.row().view(), clock.now)
        assert await core.connect.notices("alice") != {}
        clock.now = at - 1
        await core.tick()
        assert core.row().state is SessionState.READY
        clock.now = at
        await core.tick()
        await core.tick()
        row = core.row()
        assert (row.state, row.reason) == (SessionState.STOPPED, "idle for 8 h")
        assert row.job.idle_stop_at is None or row.state is SessionState.STOPPED
        (job,) = await core.sessions.jobs("alice", "dev")
        assert job.reason == "idle for 8 h"
        events = [(event.actor, event.action) for event in await core.sessions.events("alice", "dev")]
        assert [each for each in events if each in {("berth", "idle"), ("berth", "stop")}] == [
            ("berth", "idle"),
            ("berth", "stop"),
        ]
        # Whoever connects next hears of it, at once and in the session's greeting.
        clock.now += 120
        with pytest.raises(ConflictError, match="it had stopped: idle for 8 h"):
            await core.connect.connect("alice", "dev", waited=60)
        await core.settle()
        environment = file(core, "job.env")
        (before,) = [line for line in environment.splitlines() if line.startswith("BERTH_BEFORE=")]
        assert before.startswith(f"BERTH_BEFORE=job {job.job_id} ended 20")
        assert before.endswith(": idle for 8 h")
        assert file(core, "idle") == "8h\n\n"

    play(tmp_path, monkeypatch, scenario, site="8h")


def test_use_takes_the_warning_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the job's measurement, and by the bytes of its connections."""

    async def scenario(core: Core, clock: Clock) -> None:
        await core.ready()
        began, connection = clock.now, new_id()
        await carries(core, clock, connection, 0)
        clock.now += 8 * HOUR - WARNING_S + 1
        await says(core, began)
        assert core.row().job.idle_stop_at is not None
        await says(core)
        assert (core.row().job.idle_stop_at, core.row().view().idle_since) == (None, None)
        await says(core, began)
        assert core.row().job.idle_stop_at is not None
        await carries(core, clock, connection, KEEPALIVE_BYTES - 1)
        await core.tick()
        assert core.row().job.idle_stop_at is not None, "an editor that is open and untouched is no use"
        await carries(core, clock, connection, 2 * KEEPALIVE_BYTES)
        await core.tick()
        assert core.row().job.idle_stop_at is None
        assert core.row().view().idle_since == clock.now
        actions = [event.action for event in await core.sessions.events("alice", "dev")]
        assert actions.count("used") == 2

    play(tmp_path, monkeypatch, scenario, site="8h")


def test_a_new_connection_is_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        await core.ready()
        began = clock.now
        clock.now += 100
        await says(core, began)
        assert core.row().view().idle_since == int(began) or core.row().view().idle_since == core.row().job.started_at
        await carries(core, clock, new_id(), 0)
        assert core.row().view().idle_since == clock.now

    play(tmp_path, monkeypatch, scenario)


def test_the_owners_choice_goes_before_the_profiles_and_that_before_the_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        publish(core.stores.stores[0], "quick", extra="idle: 2h\n")
        await core.ready("plain")
        await core.start("quick", request=StartRequest(profile="quick"))
        assert [core.row(name).idle_in_force for name in ("plain", "quick")] == ["8h", "2h"]
        view = await core.policies.set_idle("alice", "quick", IdleChoice(idle="never"))
        assert view.idle == "never"
        assert json.loads(file(core, "manifest.json", "quick"))["idle"] == "never"
        assert file(core, "idle", "quick") == "never\n\n"
        view = await core.policies.set_idle("alice", "quick", IdleChoice(idle=None))
        assert view.idle == "2h"
        began = clock.now
        core.announce(core.row("plain"), idle=int(began), gpu="")
        await core.policies.set_idle("alice", "plain", IdleChoice(idle="never"))
        clock.now += 100 * HOUR
        await core.tick()
        await core.tick()
        assert core.row("plain").state is SessionState.READY
        # Chosen when it has been idle for longer already: it is warned all the same.
        await core.policies.set_idle("alice", "plain", IdleChoice(idle="1h"))
        await core.tick()
        assert core.row("plain").state is SessionState.READY
        assert core.row("plain").job.idle_stop_at == clock.now + WARNING_S

    play(tmp_path, monkeypatch, scenario, site="8h")


def test_one_that_is_to_stay_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        await core.ready()
        began = clock.now
        await core.policies.set_stop_time("alice", "dev", StopTime(at=began + 48 * HOUR, keep=True))
        clock.now += 20 * HOUR
        await says(core, began)
        await core.tick()
        assert (core.row().state, core.row().job.idle_stop_at) == (SessionState.READY, None)

    play(tmp_path, monkeypatch, scenario, site="8h")


def test_a_controller_that_has_just_begun_knows_too_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of connections may have met no controller."""

    async def scenario(core: Core, clock: Clock) -> None:
        await core.ready()
        began = clock.now
        clock.now += 8 * HOUR - 1
        await says(core, began)
        clock.now += WARNING_S + 1
        core.registry.close()
        again = Core.make(core.config, core.launcher)
        await again.tick()
        assert again.row().state is SessionState.READY
        clock.now += CONNECTION_TIMEOUT_S
        await again.tick()
        assert again.row().state is SessionState.STOPPING
        again.registry.close()

    play(tmp_path, monkeypatch, scenario, site="8h")


def test_idle_gpus_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(core: Core, clock: Clock) -> None:
        await core.start("dev", request=StartRequest(profile="base", options=["--gres=gpu:intel:2"]))
        job = core.row().job.job_id
        assert job is not None
        core.scheduler.start(job)
        await says(core)
        assert core.registry.count_idle_gpus() == 0
        await says(core, gpu=clock.now)
        assert core.registry.count_idle_gpus() == 2
        view = core.row().view()
        assert view.idle_since is None
        assert view.gpu_idle_since == pytest.approx(clock.now, abs=1)

    play(tmp_path, monkeypatch, scenario)


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        running.sessions["dev"] = ready(idle="8h")
        yield running


@pytest.mark.parametrize(("time", "sent"), [("never", "never"), ("8h", "8h"), ("default", None)])
def test_set_decides_when_it_is_stopped(controller: ScriptedController, time: str, sent: str | None) -> None:
    result = run("set", "dev", "--idle", time)
    assert controller.asked[-1] == ("PUT", "/v1/sessions/dev/idle", {"idle": sent})
    assert result.stderr == "dev is stopped when idle for 8h\n"


@pytest.mark.parametrize("time", ["", "always", "0h", "0", "90s", "12w", "-1h"])
def test_a_time_that_is_none_is_refused_at_once(controller: ScriptedController, time: str) -> None:
    result = run("set", "dev", f"--idle={time}")
    assert result.exit_code == 2
    assert ", or never, default" in result.stderr
    assert controller.asked == []


def test_list_show_and_explain_tell_of_it(controller: ScriptedController) -> None:
    now = time.time()
    controller.sessions["dev"] = ready(idle="8h", idle_since=now - 3 * HOUR - 5, gpu_idle_since=now - 5 * HOUR - 5)
    assert "idle for 3 h, GPU for 5 h" in run("list").stdout
    shown = run("show", "dev").stdout
    assert "usage      idle for 3 h, GPU for 5 h" in shown
    assert "idle stop  stopped when idle for 8h" in shown
    explanation = run("explain", "dev").stdout
    assert "`berth resize dev --gres=none` releases the GPU and keeps the session running" in explanation
    controller.sessions["dev"] = ready(idle="8h", idle_since=now - 7.9 * HOUR, idle_stop_at=now + 245)
    assert "(in 4 min) unless used" in run("show", "dev").stdout
