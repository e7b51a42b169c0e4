"""A site with web access, and a browser of alice."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler
from tests.unit.controller.web.browser_of import SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def web_core(tmp_path: Path) -> Iterator[Core]:
    """A controller with web access. The path of berth-web's socket is short, as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="berth-") as runtime:
        web = {"url": "https://apps.example.org", "runtime_dir": Path(runtime) / "web", "source_addresses": SOURCES}

        async def make() -> Core:
            return Core.make(site_config(tmp_path, web=web), FakeLauncher(FakeScheduler()))

        yield asyncio.run(make())
