"""A form: each field is validated while the user types, and the equivalent command line is below."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static

from broker.format import escape_controls
from tui.core.session_action import shell_line
from tui.widgets.choice_field import ChoiceField

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from textual import events
    from textual.app import ComposeResult
    from textual.widget import Widget

    from broker.forms.form import Field, Form

HINT = "Enter sends  Esc cancels  Tab next field  F2 copies the command"


NO_COMMAND = "(the command is shown when all fields are valid)"


class FormScreen(ModalScreen["Form | None"], inherit_bindings=False):
    """Returns the form when it is valid and the user sends it; None if the user cancels."""

    DEFAULT_CSS = """
    FormScreen { layout: vertical; background: $background; }
    FormScreen > Static { height: 1; width: 1fr; padding: 0 1; background: $background; color: $foreground; }
    FormScreen > .title { background: $surface; color: $primary; }
    FormScreen > .command { height: auto; max-height: 4; color: $primary; }
    FormScreen > .hint { color: $text-muted; }
    FormScreen VerticalScroll { width: 1fr; height: 1fr; background: $background; }
    FormScreen Horizontal { height: 1; width: 1fr; padding: 0 1; }
    FormScreen .label { width: 18; height: 1; color: $foreground; }
    FormScreen .label.required { text-style: bold; }
    FormScreen Input { border: none; height: 1; width: 1fr; padding: 0; background: $surface; }
    FormScreen .note { width: auto; max-width: 50%; height: 1; padding: 0 0 0 2; color: $text-muted; }
    FormScreen .error { width: 1fr; height: auto; padding: 0 1 0 19; color: $error; display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        # With priority, a key has its effect before the next one is read: otherwise the text after Tab would go to the
        # field before, if it arrives together with the Tab. Enter has none: it comes after the text before it.
        Binding("escape", "cancel", "cancel", show=False, priority=True),
        Binding("enter", "send", "send", show=False),
        Binding("tab,down", "app.focus_next", "next field", show=False, priority=True),
        Binding("shift+tab,up", "app.focus_previous", "previous field", show=False, priority=True),
        Binding("f2", "copy_command", "copy the command", show=False, priority=True),
        Binding("ctrl+c", "app.quit", "quit", show=False, priority=True),
    ]

    def __init__(
        self,
        form: Form,
        command: Callable[[Form], list[str]],
        *,
        target: str = "",
        notes: Mapping[str, str] | None = None,
        describe: Callable[[str, str], str] | None = None,
    ) -> None:
        """`command` gives the command line of a valid form.

        `target` names the sessions, `notes` has a text beside a field, such as what is free, and `describe` explains a
        field's valid text.
        """
        super().__init__()
        self.form = form
        self._command = command
        self._target = target
        self._notes = notes or {}
        self._describe = describe
        self._touched: set[str] = set()
        self._shown: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        yield Static(f"{self.form.title}{f': {self._target}' if self._target else ''}", classes="title", markup=False)
        body = VerticalScroll()
        body.can_focus = False
        with body:
            for field in self.form.fields:
                with Horizontal():
                    required = " required" if field.required else ""
                    yield Static(field.title, classes=f"label{required}", markup=False)
                    yield self._editor(field)
                    yield Static(self._notes.get(field.id, ""), classes="note", id=f"note-{field.id}", markup=False)
                yield Static("", classes="error", id=f"error-{field.id}", markup=False)
        yield Static("", id="help", markup=False)
        yield Static("", classes="command", id="command", markup=False)
        yield Static(HINT, classes="hint", markup=False)

    def on_mount(self) -> None:
        self._validate()
        self.set_focus(self._editor_of(self.form.fields[0].id))

    def note(self, field_id: str, text: str) -> None:
        """Show a text beside a field."""
        self._show(f"note-{field_id}", escape_controls(text))

    def replace_form(self, form: Form) -> None:
        """Use other rules and choices for the same fields; what the user has typed stays."""
        for field in self.form.fields:
            form.set(field.id, self.form.text(field.id))
            editor = self._editor_of(field.id)
            if isinstance(editor, Input):
                editor.suggester = _suggester(form.field(field.id))
        self.form = form
        self._validate()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._change(event.input.id, event.value)

    def on_choice_field_changed(self, event: ChoiceField.Changed) -> None:
        event.stop()
        self._change(event.field.id, event.field.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_send()

    def on_descendant_focus(self, _event: events.DescendantFocus) -> None:
        self._show_help()

    def action_send(self) -> None:
        """Send the form when the fields have taken all keys that were typed before."""
        self.call_after_refresh(self._send)

    def _send(self) -> None:
        """Return the form; if a field is invalid, show the reason and go to the field instead."""
        if not self.is_current:  # a second Enter
            return
        errors = self.form.errors()
        if not errors:
            self.dismiss(self.form)
            return
        self._touched |= errors.keys()
        self._validate()
        self.set_focus(self._editor_of(next(iter(errors))))

    def action_cancel(self) -> None:
        self.dismiss(None)

    def action_copy_command(self) -> None:
        if not self.form.errors():
            self.app.copy_to_clipboard(shell_line(self._command(self.form)))
            self.notify("the command line was copied", timeout=2, markup=False)

    def form_changed(self) -> None:
        """Called after a change of a field."""

    def _change(self, editor_id: str | None, value: str) -> None:
        field_id = (editor_id or "").removeprefix("field-")
        if value != self.form.text(field_id):
            self._touched.add(field_id)
        self.form.set(field_id, value)
        self._validate()
        self.form_changed()

    def _validate(self) -> None:
        errors = self.form.errors()
        for field in self.form.fields:
            reason = errors.get(field.id, "") if field.id in self._touched else ""
            if self._show(f"error-{field.id}", escape_controls(reason)):
                self.query_one(f"#error-{field.id}").display = bool(reason)
        line = NO_COMMAND if errors else f"$ {shell_line(self._command(self.form))}"
        self._show("command", escape_controls(line))
        self._show_help()

    def _show(self, widget_id: str, text: str) -> bool:
        """Show a text if it differs from the shown one; a change costs a layout of the screen."""
        if self._shown.get(widget_id, "") == text:
            return False
        self._shown[widget_id] = text
        self.query_one(f"#{widget_id}", Static).update(text)
        return True

    def _show_help(self) -> None:
        focused = self.focused
        if focused is None or focused.id is None or not focused.id.startswith("field-"):
            return
        field = self.form.field(focused.id.removeprefix("field-"))
        described = ""
        if self._describe is not None and self.form.text(field.id) and field.id not in self.form.errors():
            described = self._describe(field.id, self.form.text(field.id))
        self._show("help", escape_controls(described or _help(field)))

    def _editor(self, field: Field) -> Widget:
        if field.choices and not field.open:
            chooser = ChoiceField(field.choices, self.form.text(field.id), id=f"field-{field.id}")
            self.form.set(field.id, chooser.value)  # what is shown is what counts
            return chooser
        editor = Input(self.form.text(field.id), suggester=_suggester(field), compact=True, id=f"field-{field.id}")
        editor.cursor_blink = False  # a blinking cursor sends bytes for ever
        return editor

    def _editor_of(self, field_id: str) -> Widget:
        return self.query_one(f"#field-{field_id}")


def _suggester(field: Field) -> SuggestFromList | None:
    return SuggestFromList(field.choices) if field.choices else None


def _help(field: Field) -> str:
    example = f"for example {field.example}" if field.example else ""
    words = "; ".join(filter(None, (field.help, example)))
    return f"{field.title}: {words}" if words else ""
