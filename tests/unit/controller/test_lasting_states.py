"""The log has a state that lasts once, with the session's user and name."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from broker.service import lasting_states
from broker.service.lasting_states import LastingStates
from slurm.scheduler import NoAnswer, Refused
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_state_is_logged_at_its_begin_and_after_its_end(caplog: pytest.LogCaptureFixture) -> None:
    states = LastingStates(logging.getLogger("broker.test"))
    assert not states.end("disk")
    assert states.report("disk", logging.WARNING, "full")
    assert not states.report("disk", logging.WARNING, "full")
    assert states.report("net", logging.WARNING, "full")
    assert states.report("disk", logging.WARNING, "gone")
    assert states.end("disk")
    assert states.report("disk", logging.WARNING, "gone")
    assert [record.getMessage() for record in caplog.records] == ["full", "full", "gone", "gone"]


def test_states_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting_states, "MAX_STATES", 3)
    states = LastingStates(logging.getLogger("broker.test"))
    for number in range(9):
        states.report(str(number), logging.INFO, "full")
    assert len(states._texts) == 3
    assert not states.report("8", logging.INFO, "full")


def test_refused_cancel_is_one_line_and_one_event(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time)))
        session = await core.ready()

        async def refuse(_: int) -> None:
            raise Refused("Access denied")

        core.scheduler.cancel = refuse  # type: ignore[method-assign,assignment]  # as without operator rights
        await core.sessions.stop("alice", "dev")
        for _ in range(4):
            await core.tick()
            clock.now += 16
        lines = [each.getMessage() for each in caplog.records if "refused the cancel" in each.getMessage()]
        job = session.job.job_id
        assert lines == [
            f"Slurm refused the cancel user=alice session=dev id={session.id} job={job} error=Access denied"
        ]
        events = [event.action for event in await core.sessions.events("alice", "dev")]
        assert events.count("cancel-refused") == 1

    asyncio.run(scenario())


def test_accounting_that_is_down_is_logged_once_and_again_when_it_answers(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time)))
        session = await core.ready()
        finished = core.scheduler.finished_jobs

        async def silent(_: object) -> None:
            raise NoAnswer("slurmdbd is down")

        core.scheduler.finished_jobs = silent  # type: ignore[method-assign,assignment]  # as without slurmdbd
        assert session.job.job_id is not None
        del core.scheduler._jobs[session.job.job_id]
        for _ in range(4):
            await core.tick()
            clock.now += 16
        core.scheduler.finished_jobs = finished  # type: ignore[method-assign]  # it is back
        await core.tick()
        lines = [each.getMessage() for each in caplog.records if "accounting" in each.getMessage()]
        assert lines == ["Slurm's accounting does not answer: slurmdbd is down", "Slurm's accounting answers again"]

    asyncio.run(scenario())
