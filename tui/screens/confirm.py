"""The question before a dangerous action."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from broker.errors import BerthError
from broker.format import escape_controls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from textual.app import ComposeResult

    from tui.core.confirmation import Confirmation


class ConfirmScreen(ModalScreen["bool | BerthError"], inherit_bindings=False):
    """Returns True only after `y`, or after the typed name for an action that cannot be undone.

    If the controller refuses the request, the screen closes with its error.
    """

    DEFAULT_CSS = """
    ConfirmScreen { layout: vertical; background: $background; }
    ConfirmScreen > Static { height: 1; width: 1fr; padding: 0 1; background: $background; color: $foreground; }
    ConfirmScreen > .title { background: $surface; color: $warning; text-style: bold; }
    ConfirmScreen > .hint { color: $text-muted; }
    ConfirmScreen VerticalScroll { width: 1fr; height: 1fr; padding: 1 1 0 1; background: $background; }
    ConfirmScreen VerticalScroll Static { height: auto; width: 1fr; color: $foreground; }
    ConfirmScreen VerticalScroll .lost { color: $warning; padding: 1 0 0 0; }
    ConfirmScreen VerticalScroll .command { color: $primary; padding: 1 0 0 0; }
    ConfirmScreen Input { border: none; height: 1; width: 1fr; padding: 0 1; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes", show=False),
        Binding("n,escape", "answer(False)", "no", show=False),
        Binding("f2", "copy_command", "copy the command", show=False),
        Binding("ctrl+c", "app.quit", "quit", show=False),
    ]

    def __init__(self, title: str, load: Callable[[], Awaitable[Confirmation]]) -> None:
        """`load` returns the question, after the controller's check. Until then, no key agrees to anything."""
        super().__init__()
        self._title = title
        self._load = load
        self._confirmation: Confirmation | None = None
        self._is_painted = False
        """Whether the question was sent to the terminal: a key that was typed before is no answer to it."""

    def compose(self) -> ComposeResult:
        shown = self._confirmation
        question = f"{self._title}: checking, and asking Slurm" if shown is None else shown.question
        yield Static(escape_controls(question), classes="title", markup=False)
        body = VerticalScroll()
        body.can_focus = False
        with body:
            for name, line in [] if shown is None else _lines(shown):
                yield Static(escape_controls(line), classes=name, markup=False)
        if shown is not None and shown.typed:
            yield Static(f"To continue, type the name {shown.typed}, and press Enter:", markup=False)
            field = Input(compact=True)
            field.cursor_blink = False  # a blinking cursor sends bytes for ever
            yield field
        yield Static(self._hint(), classes="hint", markup=False)

    def on_mount(self) -> None:
        self.run_worker(self._show_question())

    async def _show_question(self) -> None:
        try:
            self._confirmation = await self._load()
        except BerthError as error:
            self.dismiss(error)
            return
        await self.recompose()
        if self._confirmation.typed:
            self.set_focus(self.query_one(Input))
        self.call_after_refresh(self._take_answers)

    def _take_answers(self) -> None:
        self._is_painted = True

    def _hint(self) -> str:
        if self._confirmation is None:
            return "Esc cancels"
        keys = "Esc no" if self._confirmation.typed else "y yes  n, Esc no"
        return f"{keys}  F2 copies the command"

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        name = "" if self._confirmation is None else self._confirmation.typed
        if name and event.value.strip() == name:
            self.dismiss(True)
        else:
            self.notify(f"that is not the name {name}", severity="warning", markup=False)

    def action_answer(self, yes: bool) -> None:
        """Answer with a key. A key is never a yes to what cannot be undone, nor before the question is shown."""
        if not yes or (self._is_painted and self._confirmation is not None and not self._confirmation.typed):
            self.dismiss(yes)

    def action_copy_command(self) -> None:
        if self._confirmation is None:
            return
        self.app.copy_to_clipboard(self._confirmation.command)
        self.notify("the command line was copied", timeout=2, markup=False)


def _lines(confirmation: Confirmation) -> Iterator[tuple[str, str]]:
    """Yield the class and the text of each paragraph."""
    for line in confirmation.plan:
        yield "plan", line
    for line in ("", *confirmation.changes) if confirmation.changes else ():
        yield "change", line
    yield "lost", f"Lost: {confirmation.lost}"
    yield "undo", f"Undo: {confirmation.undo}"
    yield "command", f"$ {confirmation.command}"
