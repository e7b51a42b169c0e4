"""The page of all keys of the terminal interface, made from its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.core.actions import ACTIONS
from tui.core.keys import CLOSE_KEYS, LIST_KEYS, key_groups, key_name, key_names

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# Keys of the terminal interface

`make docs` generates this page from the program; `?` in `berth tui` shows the same. Keys follow k9s and vim. None is
one that a terminal or a multiplexer takes: Ctrl with A, B, H, I, J, M, Q or S. Every action is also in the list of
actions, which `:` opens. [The guide](../howto/tui.md) says how to use the interface.
"""


def page() -> str:
    """Return the page: one section for each group of actions and keys."""
    return "\n".join([_HEAD, *_sections()])


def _sections() -> Iterator[str]:
    groups: dict[str, list[tuple[str, str]]] = {}
    for action in ACTIONS:
        groups.setdefault(action.group, []).append((key_name(action.key) or f": {action.id}", action.title))
    for group, bindings in key_groups(LIST_KEYS).items():
        groups.setdefault(group, []).extend((key_names(binding), binding.title) for binding in bindings)
    groups["Other screens"] = [(key_names(CLOSE_KEYS), CLOSE_KEYS.title)]
    for group, rows in groups.items():
        lines = [f"| {_code(keys)} | {title} |" for keys, title in rows]
        yield "\n".join([f"## {group}\n", "| key | what it does |", "|---|---|", *lines, ""])


def _code(keys: str) -> str:
    return ", ".join(f"`{key}`" for key in keys.split(", "))
