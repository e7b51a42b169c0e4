"""A site for `berth tui` as a process, and the terminal of the tests that run the application in memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.fakes.tui_actions import actions_controller
from tests.fakes.tui_site import TERMINAL, TuiSite, tui_site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.controller import ScriptedController


@pytest.fixture
def site(tmp_path: Path) -> Iterator[TuiSite]:
    with tui_site(tmp_path) as site:
        yield site


@pytest.fixture(scope="module")
def standing_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TuiSite]:
    """A site whose controller answers, for all tests of a module that only look at it."""
    with tui_site(tmp_path_factory.mktemp("site")) as site:
        site.start_controller()
        yield site


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Colours, signs and times do not depend on the terminal in which the tests run; profiles are read at once."""
    for name in ("NO_COLOR", "COLORFGBG", "LC_ALL", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tui.app.PROFILES_AFTER_S", 0.0)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    """A controller for all actions of an application in memory."""
    with actions_controller(monkeypatch, tmp_path) as running:
        yield running
