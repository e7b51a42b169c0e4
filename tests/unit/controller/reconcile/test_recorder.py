"""The changes of one answer of Slurm are recorded together, and one that fails does not keep back the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.errors import BerthError
from broker.schema.sessions import SessionState
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import Transition
    from tests.fakes.core import Clock

NAMES = ("one", "two", "three")


@pytest.fixture
def core(tmp_path: Path, clock: Clock) -> Core:
    return Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time)))


async def queue_all(core: Core) -> None:
    for name in NAMES:
        await core.start(name)
    for _ in range(2):
        await core.tick()


def start_jobs(core: Core) -> None:
    for name in NAMES:
        job_id = core.row(name).job.job_id
        assert job_id is not None
        core.scheduler.start(job_id)


def test_changes_of_one_answer_are_one_transaction(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    update_all = core.registry.update_all

    def count(transitions: Mapping[str, Transition]) -> dict[str, Session]:
        batches.append(len(transitions))
        return update_all(transitions)

    async def scenario() -> None:
        await queue_all(core)
        start_jobs(core)
        monkeypatch.setattr(core.registry, "update_all", count)
        await core.tick()
        assert {core.row(name).state for name in NAMES} == {SessionState.STARTING}
        await core.tick()

    asyncio.run(scenario())
    assert batches == [len(NAMES)]


@pytest.mark.parametrize("failing", [("update_all",), ("update_all", "update")])
def test_failed_record_is_repeated_and_keeps_back_no_other_session(
    core: Core, monkeypatch: pytest.MonkeyPatch, failing: tuple[str, ...]
) -> None:
    async def scenario() -> None:
        await queue_all(core)
        start_jobs(core)
        refused = core.row("two").id
        update = core.registry.update

        def fail(*_: object) -> None:
            raise BerthError("the disk is full")

        def fail_for_one(session_id: str, decide: Transition) -> Session:
            if session_id == refused:
                fail()
            return update(session_id, decide)

        with monkeypatch.context() as patch:
            patch.setattr(core.registry, "update_all", fail)
            if "update" in failing:
                patch.setattr(core.registry, "update", fail_for_one)
            await core.tick()
        first = SessionState.QUEUED if "update" in failing else SessionState.STARTING
        assert core.row("two").state is first
        assert {core.row(name).state for name in ("one", "three")} == {SessionState.STARTING}
        await core.tick()
        assert core.row("two").state is SessionState.STARTING

    asyncio.run(scenario())
