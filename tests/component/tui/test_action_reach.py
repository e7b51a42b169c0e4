"""Each action is reached by its key and by its name in the palette, at every size of the window that shows a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.tui_app import TuiTest, run_tui
from tests.fakes.tui_feed import make_view
from tests.short_form import mostly_soak
from tui.catalogue import Catalogue
from tui.core.actions import ACTIONS
from tui.screens.chooser import ChooserScreen

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView
    from tui.app import BerthApp
    from tui.core.catalogue_action import CatalogueAction

SIZES = [(60, 15), (80, 24), (120, 40), (250, 70)]
VIEWS = [
    make_view("ready"),
    make_view("resizing", resizing=True, beside=True, next_job_id=8),
    make_view("stopped", "stopped"),
]
"""Sessions in the order of the list; each action is allowed for one of them."""
SHOWN = 40
"""Characters of a title that the narrowest window shows."""


def session_for(action: CatalogueAction) -> SessionView:
    return next(view for view in VIEWS if action.refusal(view) is None)


@pytest.mark.parametrize("size", mostly_soak(*SIZES), ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_action_is_reached_by_key_and_by_name(size: tuple[int, int]) -> None:
    ran: list[tuple[str, str]] = []

    def run(_app: BerthApp, action: CatalogueAction, sessions: list[SessionView]) -> None:
        ran.append((action.id, sessions[0].name))

    async def scenario(test: TuiTest) -> None:
        for action in ACTIONS:
            name = session_for(action).name
            await test.press("g", *["j"] * [view.name for view in VIEWS].index(name))
            assert test.app.main_screen.status_line.text.startswith(f"{name}: ")
            if action.key:
                await test.press(action.key)
                assert ran.pop() == (action.id, name)
            await test.press("colon")
            await test.until(lambda: isinstance(test.app.screen, ChooserScreen))
            await test.press_at_once(action.title)
            assert action.title[:SHOWN] in test.text().splitlines()[2]
            await test.press("enter")
            await test.until(lambda: ran)
            assert ran.pop() == (action.id, name)
            assert test.app.screen is test.app.main_screen

    run_tui(scenario, VIEWS, size=size, catalogue=Catalogue(ACTIONS, run))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_action_is_in_the_help_with_its_key(size: tuple[int, int]) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("question_mark")
        shown = ""
        while test.text() not in shown:
            shown += test.text()
            await test.press("down")
        words = " ".join(shown.split())
        assert [action.id for action in ACTIONS if action.key and action.title not in words] == []

    run_tui(scenario, VIEWS, size=size, catalogue=Catalogue(ACTIONS))
