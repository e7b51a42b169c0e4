"""Ctrl-C and SIGHUP on every screen of `berth tui`: the program ends, the terminal is intact, and nothing is sent."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.component.tui.test_tui_terminal import assert_intact
from tests.fakes.tui_feed import make_view
from tests.short_form import pairs
from tui.core.actions import ACTIONS
from tui.core.session_action import Danger, RunMode, SessionAction

if TYPE_CHECKING:
    from tests.fakes.tui_site import TuiSite

READY, STOPPED = make_view(), make_view("old", "stopped")
LIST_SCREENS = {
    "filter": ("/s0000", "filter 's0000'"),
    "palette": (":", "actions (type to search"),
    "columns": ("C", "show or hide a column"),
    "help": ("?", "keys (Esc closes)"),
    "details": ("\r", "session s00000 (Esc closes)"),
}
"""Screens of the list: keys, and the text at which each is there."""


def has_screen(action: SessionAction) -> bool:
    """Whether the key opens a form, a question or a text, and does not send or start anything itself."""
    asks = action.make_form is not None or action.danger is not Danger.NONE
    shows = action.mode in {RunMode.SCREEN, RunMode.OUTPUT} and action.id != "copy-ssh"
    return bool(action.key) and (asks or shows)


def keys_of(action: SessionAction) -> str:
    """Return the keys that lead to the screen, of the first session, which is ready, or of the third, a stopped one."""
    key = {"exclamation_mark": "!"}.get(action.key, action.key)
    return key if action.refusal(READY) is None else f"jj{key}"


SCREENS = LIST_SCREENS | {action.id: (keys_of(action), "Esc ") for action in ACTIONS if has_screen(action)}


@pytest.mark.parametrize(("screen", "how"), pairs(SCREENS, ["ctrl-c", "HUP"]))
def test_interrupt_on_a_screen_leaves_the_terminal_intact(site: TuiSite, screen: str, how: str) -> None:
    site.start_controller()
    keys, shown = SCREENS[screen]
    with site.open(columns=100) as terminal:
        terminal.wait_for_text("s00001")
        for key in keys:
            terminal.type(key)
        terminal.wait_for_text(shown)
        if how == "ctrl-c":
            terminal.type("\x03")
        else:
            os.kill(terminal.pid, signal.SIGHUP)
        assert terminal.wait_for_end() == 0
        assert_intact(terminal)
    assert site.changes_requested() == []
    assert not (site.directory / ".local/state/berth/tui.log").exists(), "a fault was written to the log"
