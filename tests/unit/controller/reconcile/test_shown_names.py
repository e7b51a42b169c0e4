"""The comment of a job has the session's name only where other users cannot see it, or the site decides so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.reconcile.shown_names import NamePolicy
from broker.schema.sessions import SessionState
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler, SilentScheduler

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("setting", "private", "stored", "shown"),
    [
        (None, False, False, False),
        (None, True, False, True),
        (None, True, True, False),
        (True, False, True, True),
        (False, True, False, False),
    ],
)
def test_comment_has_the_session_name_where_that_is_allowed(
    tmp_path: Path, setting: bool | None, private: bool, stored: bool, shown: bool
) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path, slurm={"show_names": setting}), FakeLauncher(FakeScheduler()))
        core.scheduler.private = frozenset({"jobs"} if private else {"nodes"})
        core.scheduler.stored = stored
        for name in ("dev", "other"):
            await core.start(name)
            session = core.row(name)
            assert session.job.job_id is not None
            job = core.scheduler.change(session.job.job_id)
            assert job.comment == f"berth:{session.id}:1" + (f" {name}" if shown else "")
            env = core.launcher.directories["alice", session.id].files["job.env"]
            assert ("\nBERTH_SHOW_NAME=yes\n" in env) == shown
        assert core.scheduler.asked.count("private_data") == (setting is None)
        await core.tick()
        assert core.row().state is SessionState.QUEUED, "the job is still the session's"

    asyncio.run(scenario())


def test_comment_has_no_name_while_slurm_does_not_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        silent = SilentScheduler()
        silent.private = frozenset({"jobs"})
        policy = NamePolicy(site_config(tmp_path).slurm, silent)
        assert not await policy.are_shown()
        silent.silent = False
        assert await policy.are_shown()

    asyncio.run(scenario())
