"""The keys of the interface: one table, from which bindings, the help and the documentation are made.

Keys follow k9s and vim. No key is one that a terminal or a multiplexer takes: see TAKEN_KEYS.
"""

from __future__ import annotations

from dataclasses import dataclass

TAKEN_KEYS = frozenset(f"ctrl+{letter}" for letter in "hijmsqab")
"""ctrl+h, i, j and m are backspace, tab and line ends; s and q are flow control; a and b are multiplexers' prefixes."""


@dataclass(frozen=True, slots=True)
class KeyBinding:
    """An action of a screen and its keys, by Textual's names."""

    keys: tuple[str, ...]
    action: str
    title: str
    group: str


MOVE, LIST, VIEW, GENERAL = "Move", "List", "View", "General"

LIST_KEYS = (
    KeyBinding(("down", "j"), "move(1)", "next session", MOVE),
    KeyBinding(("up", "k"), "move(-1)", "previous session", MOVE),
    KeyBinding(("pagedown", "ctrl+d", "ctrl+f"), "move_page(1)", "next page", MOVE),
    KeyBinding(("pageup", "ctrl+u"), "move_page(-1)", "previous page", MOVE),
    KeyBinding(("home", "g"), "move_to(0)", "first session", MOVE),
    KeyBinding(("end", "G"), "move_to(-1)", "last session", MOVE),
    KeyBinding(("slash",), "filter", "filter the list while typing", LIST),
    KeyBinding(("escape",), "clear", "remove the filter, then the marks", LIST),
    KeyBinding(("space",), "mark", "mark or unmark the session", LIST),
    KeyBinding(("asterisk",), "mark_shown", "mark or unmark all that are shown", LIST),
    KeyBinding(("o",), "next_sort", "sort by the next column", LIST),
    KeyBinding(("O",), "reverse_sort", "reverse the order", LIST),
    KeyBinding(("z",), "next_group", "group by state, profile, node, or not", LIST),
    KeyBinding(("enter",), "details", "all details of the session", VIEW),
    KeyBinding(("tab",), "toggle_detail", "show or hide the details beside the list", VIEW),
    KeyBinding(("C",), "columns", "choose the columns", VIEW),
    KeyBinding(("T",), "next_theme", "theme: automatic, dark, light", VIEW),
    KeyBinding(("colon", "ctrl+p"), "palette", "find an action by its name", GENERAL),
    KeyBinding(("question_mark", "f1"), "help", "show the keys", GENERAL),
    KeyBinding(("ctrl+r", "f5"), "reconnect", "connect again now", GENERAL),
    KeyBinding(("ctrl+l",), "redraw", "draw the screen again", GENERAL),
    KeyBinding(("q", "ctrl+c"), "quit", "quit", GENERAL),
)
"""Keys of the list. An action of the catalogue has its own key, which must not be one of these."""

CLOSE_KEYS = KeyBinding(("escape", "q", "enter"), "close", "close", GENERAL)
"""Keys that close a screen that only shows something."""

_NAMES = {
    "slash": "/",
    "colon": ":",
    "question_mark": "?",
    "asterisk": "*",
    "exclamation_mark": "!",
    "escape": "Esc",
    "enter": "Enter",
    "space": "Space",
    "tab": "Tab",
    "pagedown": "PgDn",
    "pageup": "PgUp",
    "home": "Home",
    "end": "End",
    "up": "Up",
    "down": "Down",
    "f1": "F1",
    "f5": "F5",
}


def key_name(key: str) -> str:
    """Return a key as the help shows it: `/`, `Ctrl-D`, `G`."""
    if key.startswith("ctrl+"):
        return f"Ctrl-{key.removeprefix('ctrl+').upper()}"
    return _NAMES.get(key, key)


def key_names(binding: KeyBinding) -> str:
    return ", ".join(map(key_name, binding.keys))


def key_groups(bindings: tuple[KeyBinding, ...]) -> dict[str, list[KeyBinding]]:
    """Return the bindings by group, in the order in which the groups first occur."""
    groups: dict[str, list[KeyBinding]] = {}
    for binding in bindings:
        groups.setdefault(binding.group, []).append(binding)
    return groups
