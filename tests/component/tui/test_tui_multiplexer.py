"""`berth tui` in tmux, whose prefix is C-a: the same screens as in a terminal, and every action within reach."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pseudo_terminal import PseudoTerminal
from tests.short_form import mostly_soak
from tests.tmux import TmuxTerminal
from tui.core.actions import ACTIONS
from tui.screens.small import TOO_SMALL

if TYPE_CHECKING:
    from tests.fakes.tui_site import TuiSite

SIZES = [(20, 5), (59, 14), (80, 24), (250, 70)]
TERMINALS: dict[str, dict[str, str]] = {
    "screen": {},
    "xterm": {"TERM": "xterm", "COLORTERM": ""},
    "linux": {"TERM": "linux"},
    "no-color": {"NO_COLOR": "1"},
    "lc-ctype": {"LC_CTYPE": "C.UTF-8", "LANG": "C"},
}
"""Variables in the window; `screen` is what tmux sets."""
QUIET_S = 1.5
"""Seconds without output after which a screen counts as drawn."""


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def is_drawn(text: str, size: tuple[int, int]) -> bool:
    """Whether the whole screen is there: the list, or the sentence of a window that is too small."""
    if size[0] < 60 or size[1] < 15:
        return TOO_SMALL[:15] in " ".join(text.split())
    return "q quit" in text and "s00001" in text and "connecting" not in text


class Unchanged:
    """A condition that holds if a text has been the same for `seconds`, as far as it was asked."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._text, self._since = "", time.monotonic()

    def __call__(self, text: str) -> bool:
        if text != self._text:
            self._text, self._since = text, time.monotonic()
        return time.monotonic() - self._since >= self._seconds


def open_in_tmux(site: TuiSite, size: tuple[int, int], variables: dict[str, str]) -> TmuxTerminal:
    """Start `berth tui` in a window of tmux."""
    command = ["env", *(f"{name}={value}" for name, value in variables.items()), *site.command()]
    return TmuxTerminal(command, site.environment, columns=size[0], lines=size[1])


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("terminal", TERMINALS)
def test_screen_in_tmux_is_that_of_a_terminal(site: TuiSite, terminal: str, size: tuple[int, int]) -> None:
    site.start_controller()
    variables = TERMINALS[terminal]
    with (
        open_in_tmux(site, size, variables) as inside,
        site.open(columns=size[0], lines=size[1], variables=variables) as outside,
    ):
        for window in (inside, outside):
            window.wait_for(lambda text: is_drawn(text, size))
        outside.wait_for(lambda _: not outside.read(QUIET_S))
        inside.wait_for(lambda text: outside.read() or lines(text) == lines(outside.text()), what=outside.text())
        inside.type("q")
        outside.type("q")
        assert outside.wait_for_end() == 0
        inside.wait_for_end()
    assert not Path(site.directory, ".local/state/berth/tui.log").exists(), "a fault was written to the log"


@pytest.mark.parametrize("size", mostly_soak(*SIZES[2:]), ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_action_is_found_through_a_client_with_prefix_c_a(site: TuiSite, size: tuple[int, int]) -> None:
    """Keys go through tmux's own table of keys: none of them is its prefix."""
    site.start_controller()
    with open_in_tmux(site, size, {}) as inside:
        inside.wait_for(lambda text: is_drawn(text, size))
        with PseudoTerminal(inside.client_command(), site.environment, columns=size[0], lines=size[1]) as client:
            client.wait_for(lambda text: is_drawn(text, size))
            for action in ACTIONS:
                client.type(":")
                client.wait_for_text("actions (type to search")
                client.type(action.title)
                client.wait_for(lambda text, action=action: action.title in text.splitlines()[2])  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                client.type("\x1b")
                client.wait_for(lambda text: is_drawn(text, size))
            client.type("\x01d")
            assert client.wait_for_end() == 0, "the prefix is tmux's: C-a d detaches the client"
        inside.type("j")
        inside.wait_for_text("> s00001")


def test_fifty_resizes_of_the_window_leave_the_screen_of_the_last_size(site: TuiSite) -> None:
    site.start_controller()
    with open_in_tmux(site, (80, 24), {}) as inside:
        inside.wait_for(lambda text: is_drawn(text, (80, 24)))
        drawn = lines(inside.wait_for(Unchanged(QUIET_S)))
        for step in range(50):
            inside.resize(20 + step * 37 % 230, 5 + step * 11 % 65)
        inside.resize(80, 24)
        inside.wait_for(lambda text: lines(text) == drawn, what="the first screen")
        inside.type("q")
        inside.wait_for_end()
    assert not Path(site.directory, ".local/state/berth/tui.log").exists()
