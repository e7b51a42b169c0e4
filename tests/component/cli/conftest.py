"""Fixtures of the tests of the command line's programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.command_line import command_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.controller import ScriptedController


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    """A scripted controller that `berth` asks, without sessions."""
    with command_line(monkeypatch, tmp_path) as running:
        yield running
