"""A field with a few choices, of which one is shown: Space and the arrow keys change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import RenderResult

NO_CHANGE = "(no change)"
"""The text of an empty choice."""


class ChoiceField(Widget, can_focus=True):
    """Shows `< no >`; it never has another value than one of its choices."""

    DEFAULT_CSS = """
    ChoiceField { height: 1; width: 1fr; background: $surface; }
    ChoiceField:focus { text-style: reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space,right,l", "step(1)", "next", show=False),
        Binding("left,h", "step(-1)", "previous", show=False),
    ]

    class Changed(Message):
        """The user has chosen another value."""

        def __init__(self, field: ChoiceField) -> None:
            super().__init__()
            self.field = field

    def __init__(self, choices: Sequence[str], value: str, *, id: str) -> None:  # noqa: A002 - as Textual calls it
        super().__init__(id=id)
        self._choices = choices
        self._index = choices.index(value) if value in choices else 0

    @property
    def value(self) -> str:
        """The chosen text."""
        return self._choices[self._index]

    def render(self) -> RenderResult:
        return Text(f"< {self.value or NO_CHANGE} >", no_wrap=True, overflow="ellipsis")

    def action_step(self, step: int) -> None:
        self._index = (self._index + step) % len(self._choices)
        self.refresh()
        self.post_message(self.Changed(self))

    def on_click(self) -> None:
        self.action_step(1)
