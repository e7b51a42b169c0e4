"""The terminal interface with all actions, over a scripted controller, for tests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from broker.client.client import Client
from broker.forms.start_form import ProfileChoice
from broker.schema.volumes import SnapshotView
from tests.fakes.command_line import command_line
from tests.fakes.tui_app import TuiTest, run_tui
from tests.fakes.tui_feed import NOW, make_view
from tui.action_runner import ActionRunner
from tui.catalogue import Catalogue
from tui.core.actions import ACTIONS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    import pytest

    from broker.schema.sessions import SessionView
    from tests.fakes.controller import ScriptedController

PROFILES = [
    ProfileChoice("base", "2", "site", "Debian with git", newest=True),
    ProfileChoice("torch", "2.9", "site", "PyTorch", newest=True),
]
READY, STOPPED = make_view("dev"), make_view("old", "stopped")


@contextlib.contextmanager
def actions_controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    """Provide a scripted controller, and profiles for the forms."""
    monkeypatch.setattr("tui.screens.action_forms.read_profiles", lambda: PROFILES)
    with command_line(monkeypatch, tmp_path) as running:
        yield running


def act(
    controller: ScriptedController,
    scenario: Callable[[TuiTest], Awaitable[None]],
    *views: SessionView,
    **options: Any,  # noqa: ANN401 - as for run_tui
) -> None:
    """Run a scenario over an interface with all actions, and a controller that has the sessions."""
    controller.sessions = {view.name: view for view in views}
    client = options.pop("client", Client)
    runner = ActionRunner(lambda: client(controller.socket))
    run_tui(scenario, views, catalogue=Catalogue(ACTIONS, runner.run_action), **options)


def changes(controller: ScriptedController) -> list[tuple[str, str, Any]]:
    return [each for each in controller.asked if each[0] != "GET" and not each[1].endswith("/check")]


async def notified(test: TuiTest, text: str) -> None:
    """Return when a notification has the text."""
    await test.until(lambda: any(text in each.message for each in test.app._notifications))


async def type_texts(test: TuiTest, **texts: str) -> None:
    """Go to each field, and type."""
    for field_id, text in texts.items():
        test.app.screen.set_focus(test.app.screen.query_one(f"#field-{field_id}"))
        await test.press(*text)


def snapshot(number: int, home: str = "a", **values: object) -> SnapshotView:
    fields = {"number": number, "at": NOW - 3600 / number, "consistency": "stopped", "profile": "torch"}
    return SnapshotView.model_validate(fields | {"version": "2.9", "home": home.split()} | values)


TREE = [snapshot(1, "a", label="begin"), snapshot(2, "a b"), snapshot(3, "a c", label="other-way")]
