"""The help: generated from the table of keys and the catalogue of actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from tui.core.keys import LIST_KEYS, key_groups, key_name, key_names
from tui.core.palette import Tone

if TYPE_CHECKING:
    from tui.catalogue import Catalogue
    from tui.look import ScreenStyles

KEY_CELLS = 22


def help_text(catalogue: Catalogue, look: ScreenStyles) -> Text:
    """Return all keys by group, the actions of the catalogue first."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for action in catalogue.actions:
        keys = key_name(action.key) if action.key else ": " + action.id
        groups.setdefault(action.group, []).append((keys, action.title))
    for group, bindings in key_groups(LIST_KEYS).items():
        groups.setdefault(group, []).extend((key_names(binding), binding.title) for binding in bindings)
    text = Text()
    for group, lines in groups.items():
        text.append(f"{group}\n", look.style(Tone.ACTIVE))
        for keys, title in lines:
            text.append(f"  {keys:<{KEY_CELLS}}", look.style(Tone.PLAIN))
            text.append(f"{title}\n", look.style(Tone.MUTED))
        text.append("\n")
    return text
