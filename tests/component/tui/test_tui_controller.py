"""The interface over the real API of a controller, with a fake Slurm: the stream, its end, and the next controller."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from broker.client.client import Client
from tests.component.controller.api.api_server import ME, make, serving
from tests.fakes.tui_app import TuiTest
from tests.fakes.tui_feed import DrivenFeed
from tui.app import BerthApp
from tui.workers.watch_feed import WatchFeed


def test_sessions_of_the_real_controller_are_followed_over_its_restart() -> None:
    async def scenario(directory: Path) -> None:
        core = make(directory)
        await core.ready(user=ME)
        await core.stopped("old", user=ME)
        await core.ready("hidden", user="mallory")
        app = BerthApp(lambda: WatchFeed(Client(core.config.runtime_dir / "api.sock")))
        async with app.run_test(size=(130, 30)) as pilot:
            test = TuiTest(app, DrivenFeed(), pilot)
            async with serving(core):
                await test.until_shown("2 sessions | 1 ready, 1 stopped")
                await test.until_shown(f"ssh dev.{core.config.ssh.domain}")
                await core.sessions.stop(ME, "dev")
                await test.until_shown("dev: stopping")
                assert "hidden" not in test.text()
            await test.until_shown("trying again")
            assert "dev: stopping" in test.text()
            (core.config.runtime_dir / "api.sock").unlink()
            await core.sessions.delete(ME, "old", purge=True)
            async with serving(core):
                app.reconnect()
                await test.until(lambda: not app.main_screen.title_line.note)
                await test.until(lambda: "old " not in test.text() or "deleting" in test.text())
                await test.press("q")
                await test.until(lambda: not app.is_running)

    with tempfile.TemporaryDirectory(prefix="berth-") as name:
        asyncio.run(scenario(Path(name)))
