"""Forms: fields that are validated while the user types. A form with an invalid field has no values to send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

YES, NO = "yes", "no"


class InvalidFormError(ValueError):
    """A field of the form is invalid. The message begins with the field's title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a form."""

    id: str
    title: str
    parse: Callable[[str], object]
    """Returns the value of a text that is not empty; ValueError with the reason if the text is invalid."""
    help: str = ""
    example: str = ""
    required: bool = False
    initial: str = ""
    choices: tuple[str, ...] = ()
    """The texts to choose from; empty for a field that takes any text."""
    open: bool = False
    """Whether a text that is not in `choices` is accepted, too."""


@dataclass(slots=True)
class Form:
    """The fields of a form and what the user has typed so far."""

    title: str
    fields: tuple[Field, ...]
    rule: Callable[[Mapping[str, object]], Mapping[str, str]] | None = None
    """Finds faults of fields that are valid alone: field id → reason."""
    _texts: dict[str, str] = field(default_factory=dict)

    def set(self, field_id: str, text: str) -> None:
        """Replace a field's text."""
        self.field(field_id)
        self._texts[field_id] = text

    def field(self, field_id: str) -> Field:
        """Return the field with this id; KeyError without one."""
        for each in self.fields:
            if each.id == field_id:
                return each
        raise KeyError(field_id)

    def text(self, field_id: str) -> str:
        """Return a field's text without blanks at its ends."""
        return self._texts.get(field_id, self.field(field_id).initial).strip()

    def errors(self) -> dict[str, str]:
        """Return the reason of each field that is invalid now; empty if the form can be sent."""
        values, found = self._parse_fields()
        if self.rule is not None and not found:
            found |= self.rule(values)
        return found

    def values(self) -> dict[str, object]:
        """Return the value of each field; None for an empty one. InvalidFormError if a field is invalid."""
        for field_id, reason in self.errors().items():
            raise InvalidFormError(f"{self.field(field_id).title}: {reason}")
        return self._parse_fields()[0]

    def _parse_fields(self) -> tuple[dict[str, object], dict[str, str]]:
        values: dict[str, object] = {}
        found: dict[str, str] = {}
        for each in self.fields:
            text = self.text(each.id)
            values[each.id] = None
            try:
                values[each.id] = _parse(each, text)
            except ValueError as error:
                found[each.id] = str(error)
        return values, found


def _parse(each: Field, text: str) -> object:
    if not text:
        if each.required:
            raise ValueError("is required")
        return None
    if each.choices and not each.open and text not in each.choices:
        raise ValueError(f"{text[:60]!r} is not one of {', '.join(each.choices)}")
    return each.parse(text)


def choice(field_id: str, title: str, choices: tuple[str, ...], *, help: str = "", initial: str = "") -> Field:  # noqa: A002 - the field's word
    """Return a field whose text is one of `choices`."""
    return Field(id=field_id, title=title, parse=str, help=help, choices=choices, initial=initial)


def yes_or_no(field_id: str, title: str, *, help: str = "") -> Field:  # noqa: A002 - the field's word
    """Return a field whose value is True or False; at first False."""
    return Field(id=field_id, title=title, parse=_is_yes, help=help, choices=(NO, YES), initial=NO)


def _is_yes(text: str) -> bool:
    return text == YES
