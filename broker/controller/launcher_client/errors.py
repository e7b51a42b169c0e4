"""The error of a launcher call that has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from broker.errors import (
    NO_SPACE_LEFT,
    BerthError,
    ConflictError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable


class LauncherError(BerthError):
    """A verb did not do what was asked; `kind` as in launcher.request.VerbError, or `crashed`, `timed-out`, `gone`."""

    reason = "launcher"

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def unclear(self) -> bool:
        """Whether what was asked may have been done all the same."""
        return self.kind in {"unclear", "crashed", "timed-out", "gone"}


_Answer = TypeVar("_Answer")


async def with_user_errors(name: str, call: Awaitable[_Answer]) -> _Answer:
    """What the launcher answers to a call about a session of that name; its refusal in the words that people get."""
    try:
        return await call
    except LauncherError as error:
        raise to_user_error(error, name) from error


def to_user_error(error: LauncherError, name: str) -> BerthError:
    """What a user is told of a verb that did nothing to the session `name`."""
    kind, said = error.kind, error.message
    if kind == "space":
        return NoSpaceError(
            f"{NO_SPACE_LEFT} for {name}, and nothing was changed: {said}",
            hint=f"`berth gc` removes what nothing needs any more, `berth size {name}` says what takes how much",
        )
    if kind == "busy":
        return ConflictError(
            f"{name} is open in a job or another operation, and nothing was changed: {said}",
            hint="try again in a moment",
        )
    if error.unclear:
        return BerthError(f"it is not clear what became of it: {said}", hint="try again in a moment")
    kinds: dict[str, type[BerthError]] = {
        "invalid": InvalidInputError,
        "refused": RefusedError,
        "missing": NotFoundError,
        "conflict": ConflictError,
        "ended": ConflictError,
    }
    return kinds.get(kind, BerthError)(said, hint="nothing was changed")
