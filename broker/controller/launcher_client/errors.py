"""Errors of launcher calls, and their translation into messages for users."""

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
    """A verb has failed. `kind` is as in launcher.request.VerbError, or `crashed`, `timed-out`, `gone`."""

    reason = "launcher"

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def unclear(self) -> bool:
        """Whether the call may have completed nevertheless."""
        return self.kind in {"unclear", "crashed", "timed-out", "gone"}


_Answer = TypeVar("_Answer")


async def with_user_errors(name: str, call: Awaitable[_Answer]) -> _Answer:
    """Await a launcher call about the session `name`, and turn its LauncherError into an error for the user."""
    try:
        return await call
    except LauncherError as error:
        raise to_user_error(error, name) from error


def to_user_error(error: LauncherError, name: str) -> BerthError:
    """Return the error that a user gets when a verb has changed nothing in the session `name`."""
    kind, message = error.kind, error.message
    if kind == "space":
        return NoSpaceError(
            f"{NO_SPACE_LEFT} for {name}, and nothing was changed: {message}",
            hint=f"`berth gc` removes data that no session needs; `berth size {name}` shows what takes space",
        )
    if kind == "busy":
        return ConflictError(
            f"{name} is open in a job or another operation, and nothing was changed: {message}",
            hint="try again in a moment",
        )
    if error.unclear:
        return BerthError(
            f"Berth could not confirm whether the operation completed: {message}", hint="try again in a moment"
        )
    kinds: dict[str, type[BerthError]] = {
        "invalid": InvalidInputError,
        "refused": RefusedError,
        "missing": NotFoundError,
        "conflict": ConflictError,
        "ended": ConflictError,
    }
    return kinds.get(kind, BerthError)(message, hint="nothing was changed")
