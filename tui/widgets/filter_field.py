"""The field above the list in which the filter is typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.events import Key
from textual.widgets import Input

if TYPE_CHECKING:
    from collections.abc import Callable


class FilterField(Input):
    """Takes text until Enter or Esc. Keys that were typed behind these, and arrived together with them, go to the list.

    Textual would handle Enter only after it has taken the keys behind it as text.
    """

    def __init__(self, leave: Callable[[], None], clear: Callable[[], None]) -> None:
        """Both functions take the focus from the field: after Enter and after Esc."""
        super().__init__(placeholder="filter: words in any field; Esc removes it", compact=True)
        self.cursor_blink = False  # a blinking cursor sends bytes for ever
        self._ends = {"enter": leave, "escape": clear}

    def on_key(self, event: Key) -> None:
        if self.screen.focused is not self:
            self.app.post_message(Key(event.key, event.character))
        elif event.key in self._ends:
            self._ends[event.key]()
        else:
            return
        event.stop()
        event.prevent_default()
