"""Fixtures of the tests of the controller: a controller's core, and a clock in place of time(2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def core(tmp_path: Path) -> Core:
    async def make() -> Core:
        return Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))

    return asyncio.run(make())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch)
