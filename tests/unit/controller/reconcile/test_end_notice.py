"""Before the controller cancels a session's job, the job gets what to tell its terminals."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile import end_notice
from broker.schema.sessions import ResizeRequest, SessionState, StopTime
from broker.schema.volumes import RollbackRequest, SnapshotRequest
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler
from tests.unit.controller.sessions.session_volumes import begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import pytest

STARTS_IT = "Its files are kept. `berth start dev` starts it again."
COMES_BACK = "dev starts again by itself: connect again in a moment."


def play(tmp_path: Path, clock: Clock, scenario: Callable[[Core], Awaitable[None]]) -> None:
    async def scene() -> None:
        await scenario(Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler(now=clock.time))))

    asyncio.run(scene())


def ending(core: Core) -> list[str]:
    """Return the lines of run/ending of the session dev."""
    (directory,) = core.launcher.directories.values()
    return directory.files.get("ending", "").splitlines()


def test_terminals_hear_who_stopped_the_session_before_its_job_is_cancelled(tmp_path: Path, clock: Clock) -> None:
    async def scenario(core: Core) -> None:
        session = await core.ready()
        cancel = core.scheduler.cancel

        async def check_then_cancel(job_id: int) -> None:
            assert ending(core) == ["1", "alice stopped the session", STARTS_IT]
            await cancel(job_id)

        core.scheduler.cancel = check_then_cancel  # type: ignore[method-assign] # looks at what the job would read
        await core.sessions.stop("alice", "dev")
        await core.tick()
        assert core.live_jobs(session) == {}

    play(tmp_path, clock, scenario)


def test_each_stop_has_its_reason_and_the_way_back(tmp_path: Path, clock: Clock) -> None:
    async def scenario(core: Core) -> None:
        await core.ready()
        await begun(core, core.container_changes.restart("alice", "dev"))
        await core.tick()
        assert ending(core) == ["1", "alice ends all programs here: the session is restarting", COMES_BACK]
        for _ in range(2):
            await core.tick()
        core.announce(core.row())
        await core.tick()
        await core.policies.set_stop_time("alice", "dev", StopTime(at=clock.now + 60))
        clock.now += 61
        await core.tick()
        assert ending(core) == ["2", "Berth ends the session: stopped at the scheduled time", STARTS_IT]
        await core.tick()
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
        await core.ready()
        await begun(core, core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")))
        await core.tick()
        assert ending(core) == ["3", "alice ends all programs here: the session is rolling back", COMES_BACK]

    play(tmp_path, clock, scenario)


def test_session_that_is_resized_says_that_it_continues(tmp_path: Path, clock: Clock) -> None:
    async def scenario(core: Core) -> None:
        await core.ready()
        await core.resize.resize("alice", "dev", ResizeRequest(options=["--mem=4G"]).options, "end")
        await core.tick()
        await core.tick()
        assert ending(core) == ["1", "the session continues in a job with other resources", COMES_BACK]

    play(tmp_path, clock, scenario)


def test_queued_session_has_no_terminals_to_tell(tmp_path: Path, clock: Clock) -> None:
    async def scenario(core: Core) -> None:
        await core.start()
        await core.sessions.stop("alice", "dev")
        await core.tick()
        await core.tick()
        assert core.row().state is SessionState.STOPPED
        assert ending(core) == []

    play(tmp_path, clock, scenario)


def test_file_system_that_hangs_or_is_full_does_not_keep_a_session_from_stopping(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(end_notice, "WRITE_TIMEOUT_S", 0.01)

    async def scenario(core: Core) -> None:
        for trouble in ("hangs", "fails"):
            session = await core.ready()
            if trouble == "hangs":
                core.launcher.hangs["install"] = "before"
            else:
                core.launcher.failures["install"] = LauncherError("space", "the disk is full")
            await core.sessions.stop("alice", "dev")
            await core.reconciler.tick()
            assert core.live_jobs(session) == {}, trouble
            await core.end_notices.close()
            core.launcher.hangs.clear()
            core.launcher.failures.clear()
            await core.tick()
        assert "end notice not written user=alice session=dev error=the disk is full" in caplog.text

    play(tmp_path, clock, scenario)
