"""A list from which one entry is chosen while typing: the palette of actions, and the columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult


@dataclass(frozen=True, slots=True)
class Choice:
    """An entry: its id, its text, its key, and why it cannot be chosen now."""

    id: str
    title: str
    key: str = ""
    refusal: str = ""


def matching_choices(choices: Sequence[Choice], text: str) -> list[Choice]:
    """Return the choices that contain all words, those whose title begins with the text first."""
    words = text.casefold().split()
    found = [choice for choice in choices if all(word in f"{choice.id} {choice.title}".casefold() for word in words)]
    return sorted(found, key=lambda choice: not choice.title.casefold().startswith(text.casefold().strip()))


class ChooserScreen(Screen[str | None], inherit_bindings=False):
    """Returns the id of the chosen entry, or None. An entry that is refused stays, with its reason."""

    DEFAULT_CSS = """
    ChooserScreen { align: center top; background: $background; }
    ChooserScreen Static { height: 1; width: 1fr; background: $surface; color: $primary; padding: 0 1; }
    ChooserScreen Input { border: none; height: 1; width: 1fr; padding: 0 1; background: $background; }
    ChooserScreen OptionList { border: none; height: 1fr; width: 1fr; padding: 0; background: $background; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "close", show=False),
        Binding("down,ctrl+n", "step(1)", "next", show=False),
        Binding("up,ctrl+p", "step(-1)", "previous", show=False),
        Binding("pagedown", "step(10)", "next page", show=False),
        Binding("pageup", "step(-10)", "previous page", show=False),
        Binding("ctrl+c", "app.quit", "quit", show=False),
    ]

    def __init__(self, title: str, choices: Sequence[Choice]) -> None:
        super().__init__()
        self._title = title
        self._choices = choices
        self._found: list[Choice] = []

    def compose(self) -> ComposeResult:
        yield Static(f"{self._title} (type to search, Enter chooses, Esc closes)", markup=False)
        field = Input(placeholder="search", compact=True)
        field.cursor_blink = False  # a blinking cursor sends bytes for ever
        yield field
        options = OptionList(markup=False)
        options.can_focus = False
        yield options

    def on_mount(self) -> None:
        self._show("")
        self.set_focus(self.query_one(Input))  # before the next key is read

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._show(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        at = self.query_one(OptionList).highlighted
        if at is not None and at < len(self._found):
            self._choose(self._found[at])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self._choose(self._found[event.option_index])

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_step(self, step: int) -> None:
        options = self.query_one(OptionList)
        if self._found:
            options.highlighted = min(max((options.highlighted or 0) + step, 0), len(self._found) - 1)

    def _choose(self, choice: Choice) -> None:
        if choice.refusal:
            self.notify(f"{choice.title}: {choice.refusal}", severity="warning", markup=False)
        else:
            self.dismiss(choice.id)

    def _show(self, text: str) -> None:
        self._found = matching_choices(self._choices, text)
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(_line(choice)) for choice in self._found])
        options.highlighted = 0 if self._found else None


def _line(choice: Choice) -> Text:
    refusal = f"  ({choice.refusal})" if choice.refusal else ""
    return Text(f"{choice.key:>6}  {choice.title}{refusal}", no_wrap=True, overflow="ellipsis")
