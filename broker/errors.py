"""Errors that a user can meet, with text for three readers.

`message` and `hint` are for the user (what happened, how to mend it), `reason` is a short constant for metrics and
`--json`, and the exception's cause is for the log. The exit codes are those of docs/reference/exit-codes.md.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

NO_ROOM = "there is no space or no quota left"
"""How every message begins that is about a full disk or quota."""


class ExitCode(IntEnum):
    """What every `berth` command ends with; `berth exec` and `berth ssh` pass the remote command's own code on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    CONFLICT = 5
    SLURM_UNAVAILABLE = 6
    CONTROLLER_UNAVAILABLE = 7
    TIMED_OUT = 8
    NO_SPACE = 9
    INTERRUPTED = 130


class BerthError(Exception):
    """A failure with a message and a remedy; the subclasses fix how HTTP and the shell see it."""

    reason: ClassVar[str] = "failed"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInputError(BerthError):
    """The request itself is wrong: a name, an option, a key, a configuration value."""

    reason = "invalid"
    exit_code = ExitCode.USAGE
    status = 422


class NotFoundError(BerthError):
    """No such session, profile, version or key that this user may see."""

    reason = "not-found"
    exit_code = ExitCode.NOT_FOUND
    status = 404


class RefusedError(BerthError):
    """Policy says no: not the owner, not allowed by the site, refused by Slurm."""

    reason = "refused"
    exit_code = ExitCode.REFUSED
    status = 403


class ConflictError(BerthError):
    """Not in this state: it runs already, it is not running, the name is taken."""

    reason = "conflict"
    exit_code = ExitCode.CONFLICT
    status = 409


class SlurmUnavailableError(BerthError):
    """Slurm did not answer. Nothing is known, so nothing was changed."""

    reason = "slurm-unavailable"
    exit_code = ExitCode.SLURM_UNAVAILABLE
    status = 503


class ControllerUnavailableError(BerthError):
    """The controller's socket is missing or does not answer."""

    reason = "controller-unavailable"
    exit_code = ExitCode.CONTROLLER_UNAVAILABLE
    status = 502


class TimedOutError(BerthError):
    """A wait that the user asked for ended before its condition came true; what was waited for goes on."""

    reason = "timed-out"
    exit_code = ExitCode.TIMED_OUT
    status = 504


class WaitingError(TimedOutError):
    """A session that a client wants to connect to is on its way: ask again, and say how long you have waited.

    For a gateway, which waits by itself, it says for what: ask again when the session's revision is another one than
    `revision`, and at the latest after `seconds`.
    """

    reason = "waiting"

    def __init__(
        self, message: str, *, hint: str = "", session_id: str = "", revision: int = 0, seconds: float = 0.0
    ) -> None:
        super().__init__(message, hint=hint)
        self.session_id = session_id
        self.revision = revision
        self.seconds = seconds


class NoSpaceError(BerthError):
    """No space, or no quota, is left where the data lies; what was asked for changed nothing."""

    reason = "no-space"
    exit_code = ExitCode.NO_SPACE
    status = 507


_BY_REASON: dict[str, type[BerthError]] = {
    cls.reason: cls
    for cls in (
        BerthError,
        InvalidInputError,
        NotFoundError,
        RefusedError,
        ConflictError,
        SlurmUnavailableError,
        ControllerUnavailableError,
        WaitingError,
        TimedOutError,
        NoSpaceError,
    )
}


def from_reason(reason: str, message: str, hint: str) -> BerthError:
    """Rebuild the error that the API answered with; an unknown reason gives the base class."""
    return _BY_REASON.get(reason, BerthError)(message, hint=hint)
