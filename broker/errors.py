"""Errors that a user can see, with text for three readers.

`message` and `hint` are for the user: what happened, and what to do. `reason` is a short constant for metrics and
`--json`. The exception's cause is for the log. docs/reference/exit-codes.md lists the exit codes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

NO_SPACE_LEFT = "there is no space or no quota left"
"""The beginning of every message about a full disk or quota."""


class ExitCode(IntEnum):
    """The exit codes of all `berth` commands. `berth exec` and `berth ssh` return the remote command's exit code."""

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
    """A failure with a message and a hint. Each subclass has a reason, an exit code and an HTTP status."""

    reason: ClassVar[str] = "failed"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInputError(BerthError):
    """The request is invalid: a name, an option, a key, or a configuration value."""

    reason = "invalid"
    exit_code = ExitCode.USAGE
    status = 422


class NotFoundError(BerthError):
    """The session, profile, version or key does not exist, or this user may not see it."""

    reason = "not-found"
    exit_code = ExitCode.NOT_FOUND
    status = 404


class RefusedError(BerthError):
    """The request is forbidden: by ownership, by the site's settings, or by Slurm."""

    reason = "refused"
    exit_code = ExitCode.REFUSED
    status = 403


class UntrustedImageError(RefusedError):
    """The profile's image has no signature that the site accepts, or it was changed after it was signed."""

    reason = "untrusted-image"
    exit_code = ExitCode.FAILED


class LoggedOutError(RefusedError):
    """The browser's login has ended."""

    reason = "logged-out"
    status = 401


class TooManyError(RefusedError):
    """The user has as many of these at once as the controller allows."""

    status = 429


class ConflictError(BerthError):
    """The request does not fit the current state: the session already runs, does not run, or the name is taken."""

    reason = "conflict"
    exit_code = ExitCode.CONFLICT
    status = 409


class SlurmUnavailableError(BerthError):
    """Slurm did not answer. Nothing was changed."""

    reason = "slurm-unavailable"
    exit_code = ExitCode.SLURM_UNAVAILABLE
    status = 503


class ControllerUnavailableError(BerthError):
    """The controller's socket is missing or does not answer."""

    reason = "controller-unavailable"
    exit_code = ExitCode.CONTROLLER_UNAVAILABLE
    status = 502


class ProviderUnavailableError(ControllerUnavailableError):
    """The controller cannot log the browser in: the OpenID provider did not give a usable answer."""

    reason = "provider-unavailable"


class TimedOutError(BerthError):
    """A wait reached its time limit. The operation that the user waited for continues."""

    reason = "timed-out"
    exit_code = ExitCode.TIMED_OUT
    status = 504


class WaitingError(TimedOutError):
    """The session that a client wants to connect to is not ready yet. The client asks again, with its waiting time.

    A gateway waits by itself: it asks again when the session's revision differs from `revision`, and at the latest
    after `seconds`.
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
    """The disk or the quota for the session's data is full. Nothing was changed."""

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
        UntrustedImageError,
        LoggedOutError,
        ConflictError,
        SlurmUnavailableError,
        ControllerUnavailableError,
        ProviderUnavailableError,
        WaitingError,
        TimedOutError,
        NoSpaceError,
    )
}


def from_reason(reason: str, message: str, hint: str) -> BerthError:
    """Return the error that an API response describes; BerthError for an unknown reason."""
    return _BY_REASON.get(reason, BerthError)(message, hint=hint)
