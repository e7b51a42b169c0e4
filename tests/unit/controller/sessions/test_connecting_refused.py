"""Connecting to a session that Slurm refuses to start again: everyone hears why, and it is tried once for all."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.sessions.access import SessionAccess
from broker.errors import RefusedError
from broker.schema.sessions import SessionState
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import RefusingLauncher
from tests.fakes.scheduler import FakeScheduler
from tests.unit.controller.sessions.test_connecting import rest

if TYPE_CHECKING:
    from pathlib import Path

    from broker.controller.registry.models import Session


async def refusing_core(tmp_path: Path, clock: Clock) -> tuple[Core, RefusingLauncher]:
    """Make a core with a stopped session, `dev`, that Slurm refuses to start again."""
    launcher = RefusingLauncher(FakeScheduler())
    launcher.words = ""
    core = Core.make(site_config(tmp_path), launcher)
    await rest(core, clock)
    launcher.words = "Invalid account"
    return core, launcher


def test_what_slurm_refuses_is_said_and_the_session_is_what_it_was(tmp_path: Path, clock: Clock) -> None:
    async def scene() -> None:
        core, _ = await refusing_core(tmp_path, clock)
        with pytest.raises(RefusedError, match="Invalid account"):
            await core.connect.connect("alice", "dev")
        assert core.row().state is SessionState.STOPPED

    asyncio.run(scene())


def test_all_who_waited_for_a_refused_start_hear_why(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.controller.sessions.connect.START_WAIT_S", DEADLINE_S)

    async def scene() -> None:
        core, launcher = await refusing_core(tmp_path, clock)
        asked = [asyncio.create_task(core.connect.connect("alice", "dev", hold=False)) for _ in range(20)]
        for each in asked:
            with pytest.raises(RefusedError, match="Invalid account"):
                await each
        tries = launcher.submissions()
        with pytest.raises(RefusedError, match="Invalid account"):
            await core.connect.connect("alice", "dev", waited=5, hold=False)
        assert launcher.submissions() == tries == 2, "one start for all of them"
        with pytest.raises(RefusedError, match="Invalid account"):
            await core.connect.connect("alice", "dev", hold=False)
        assert launcher.submissions() == 3, "a new connection tries again"

    asyncio.run(scene())


def test_a_query_slower_than_the_refused_start_hears_why(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own reads took so long that the start that another query requested has ended: no second start follows."""
    monkeypatch.setattr("broker.controller.sessions.connect.START_WAIT_S", DEADLINE_S)

    async def scene() -> None:
        core, launcher = await refusing_core(tmp_path, clock)
        resolve, go_on, queries = SessionAccess.resolve, asyncio.Event(), itertools.count()

        async def first_is_slow(*arguments: Any) -> Session:  # noqa: ANN401
            number = next(queries)
            session = await resolve(*arguments)
            if number == 0:
                await go_on.wait()
            return session

        monkeypatch.setattr(SessionAccess, "resolve", first_is_slow)
        slow = asyncio.create_task(core.connect.connect("alice", "dev", hold=False))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="Invalid account"):
            await core.connect.connect("alice", "dev", hold=False)
        go_on.set()
        with pytest.raises(RefusedError, match="Invalid account"):
            await slow
        assert launcher.submissions() == 2, "one start for both"

    asyncio.run(scene())
