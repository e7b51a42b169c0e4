"""The table of keys: none is taken twice, or by terminals; the help and the catalogue follow it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tui.app import BerthApp
from tui.catalogue import Catalogue
from tui.core.actions import find_action
from tui.core.keys import CLOSE_KEYS, LIST_KEYS, TAKEN_KEYS, key_groups, key_name
from tui.core.plain_menu import PlainMenu
from tui.look import LOOKS
from tui.screens.chooser import ChooserScreen
from tui.screens.help_text import help_text
from tui.screens.sessions import SessionsScreen
from tui.screens.small import SmallScreen
from tui.screens.text_screen import TextScreen

SCREENS = (SessionsScreen, SmallScreen, TextScreen, ChooserScreen)


def test_no_key_is_bound_twice() -> None:
    keys = [key for binding in LIST_KEYS for key in binding.keys]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("owner", [*SCREENS, BerthApp], ids=lambda owner: owner.__name__)
def test_no_key_is_one_that_terminals_take(owner: type) -> None:
    bindings = [key for binding in owner.BINDINGS for key in binding.key.split(",")]  # type: ignore[attr-defined]
    assert not TAKEN_KEYS & set(bindings)


@pytest.mark.parametrize("screen", SCREENS, ids=lambda owner: owner.__name__)
def test_every_action_of_a_screen_exists(screen: type) -> None:
    for binding in screen.BINDINGS:  # type: ignore[attr-defined]
        owner, _, name = binding.action.partition("(")[0].rpartition(".")
        assert hasattr(BerthApp if owner == "app" else screen, f"action_{name}"), binding.action


@pytest.mark.parametrize("screen", SCREENS, ids=lambda owner: owner.__name__)
def test_every_screen_can_be_quit(screen: type) -> None:
    keys = {key for binding in screen.BINDINGS for key in binding.key.split(",")}  # type: ignore[attr-defined]
    assert "ctrl+c" in keys
    assert "q" in keys or screen is ChooserScreen  # there a letter is a part of the search; Esc leaves it


def test_help_shows_every_key_and_every_action() -> None:
    text = help_text(Catalogue((find_action("ssh"),)), LOOKS["berth-dark"]).plain
    for binding in LIST_KEYS:
        assert binding.title in text
        assert all(key_name(key) in text for key in binding.keys)
    assert "log in with ssh" in text
    headings = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert headings == ["Connect", *key_groups(LIST_KEYS)]


@pytest.mark.parametrize("key", ["q", "j", "question_mark"])
def test_action_with_a_key_of_the_list_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is taken"):
        Catalogue((replace(find_action("ssh"), key=key),))


def test_key_names_are_those_on_the_keyboard() -> None:
    assert [key_name(key) for key in ("ctrl+d", "slash", "G", "f1", "pagedown")] == ["Ctrl-D", "/", "G", "F1", "PgDn"]
    assert "escape" in CLOSE_KEYS.keys


def test_plain_menu_knows_the_actions_of_the_catalogue() -> None:
    assert "choose a session" in PlainMenu((find_action("ssh"),)).answer("ssh", 0).lines[0]
