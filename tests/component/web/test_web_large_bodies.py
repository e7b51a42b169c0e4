"""Large uploads and downloads through HAProxy, ssh and sshd, which none of these processes keeps in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import DEADLINE_S
from tests.fakes import web_service
from tests.fakes.web_process import web_process
from tests.fakes.web_world import web_world
from tests.processes import forget_peak, peak_kilobytes, process_name, process_tree
from tests.site.web_visitor import WebVisitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakes.web_world import Entered, WebWorld

MAX_GROWTH_MB = 50
PROGRAMS = {"haproxy", "ssh", "sshd"}
"""Programs that the bytes pass."""
LIMIT_S = 300


@pytest.mark.parametrize("megabytes", [64, pytest.param(2048, marks=pytest.mark.soak)])
def test_no_process_keeps_what_passes(megabytes: int) -> None:
    async def scene(world: WebWorld, service: int) -> None:
        async with web_process(world) as web:
            await web.says("ready:")
            world.define("bytes")
            browser = await _entered(world)
            passed = set(process_tree(os.getpid())) - {os.getpid(), service}
            before = {}
            for pid in passed:
                forget_peak(pid)
                before[pid] = peak_kilobytes(pid)
            names = {pid: process_name(pid) for pid in passed}
            assert set(names.values()) >= PROGRAMS
            visitor = WebVisitor(world.port)
            for transfer in (visitor.upload, visitor.download):
                await asyncio.to_thread(transfer, browser.host, browser.cookie, megabytes)
            grown = {names[pid]: (peak_kilobytes(pid) - size) / 1024 for pid, size in before.items()}
            assert {name: growth for name, growth in grown.items() if growth >= MAX_GROWTH_MB} == {}

    async def whole() -> None:
        async with asyncio.timeout(LIMIT_S), web_world() as world:
            with _service(world.place / "s" / "bytes.sock") as service:
                try:
                    await scene(world, service)
                finally:
                    for wire in world.wires:
                        wire.close()

    asyncio.run(whole())


@contextlib.contextmanager
def _service(socket: Path) -> Iterator[int]:
    """A service that takes and gives any number of bytes; its process id."""
    argv = [sys.executable, str(Path(web_service.__file__))]
    with subprocess.Popen(argv, env=os.environ | {"BERTH_SOCKET": str(socket)}) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


async def _entered(world: WebWorld) -> Entered:
    """A browser for which the service is open."""
    browser = await world.enter_by_portal(world.visit("bytes"))
    async with asyncio.timeout(DEADLINE_S):
        while (await world.navigate(browser.host, **world.cookie(browser))).status != 200:  # noqa: ASYNC110 - HAProxy sets no Event
            await asyncio.sleep(0.02)
    return browser
