"""Types that several schemas of YAML files share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import AfterValidator, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Callable

Item = TypeVar("Item")


STRICT = ConfigDict(extra="forbid", frozen=True)
"""The configuration of every model of a file that people write: unknown keys are faults."""


def one_line(text: str) -> str:
    """Return the text if it has no control character. Raises ValueError."""
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise ValueError("must be one line without control characters")
    return text


Line = Annotated[str, AfterValidator(one_line)]


def refuse_duplicates(*attributes: str) -> Callable[[list[Item]], list[Item]]:
    """Return a validator that refuses two items of a list with the same value of one of the attributes."""

    def check(items: list[Item]) -> list[Item]:
        for attribute in attributes:
            values = [getattr(item, attribute) for item in items]
            if twice := [value for index, value in enumerate(values) if value in values[:index]]:
                raise ValueError(f"{twice[0]} is given twice")
        return items

    return check
