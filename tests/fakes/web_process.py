"""`berth web` as a process of its own, in a world of tests.fakes.web_world."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

import yaml

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fakes.web_world import WebWorld


PROGRAM = """
import runpy, sys
from broker.web import tunnel
tunnel.SOCKETS = sys.argv.pop()
sys.argv = ["berth", "web"]
runpy.run_module("broker.cli", run_name="__main__")
"""
"""`berth web` with the world's directory of sockets in the session."""


class WebProcess:
    """The process, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def says(self, text: str) -> None:
        async with asyncio.timeout(DEADLINE_S), self._news:
            await self._news.wait_for(lambda: text in self.said)

    async def ends(self) -> int:
        """Its exit status, when its children have ended too: they have its standard error."""
        async with asyncio.timeout(DEADLINE_S):
            await self._reading
            return await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            async with self._news:
                self.said += line.decode()
                self._news.notify_all()


@contextlib.asynccontextmanager
async def web_process(world: WebWorld, **web: object) -> AsyncIterator[WebProcess]:
    """The process; it is ended with the block."""
    config = world.place / "config.yaml"
    usual = {
        "url": world.settings.origins.url(world.settings.origins.domain),
        "listen": f"127.0.0.1:{world.port}",
        "runtime_dir": str(world.settings.directory),
    }
    config.write_text(yaml.safe_dump({"mode": "site", "runtime_dir": str(world.place), "web": usual | web}))
    made = WebProcess(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, str(world.place / "s")),
            env=os.environ | {"BERTH_CONFIG": str(config)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    )
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            made.process.terminate()
        await made.ends()
