"""Report each failure of a command: text or one JSON object on stderr, and one exit code."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import click

from broker.cli.output import output_error, write
from broker.errors import BerthError, ExitCode, InvalidInputError, NoSpaceError
from broker.format import escape_controls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


_PATH_ERRORS = frozenset(
    {
        *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
        *(errno.ELOOP, errno.EROFS, errno.ETXTBSY, errno.ENXIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.EINVAL),
    }
)
"""Failures of a file that the user's path, permissions or file system cause."""

_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})


class InterruptedWaitError(BerthError):
    """The user pressed Ctrl-C; the message names the operation that continues."""

    reason = "interrupted"
    exit_code = ExitCode.INTERRUPTED


_REQUESTS = {
    "keys": "`berth key list` shows your keys",
    "certificates": "`berth login --list` shows your certificates",
    "environments": "`squeue --me` shows whether a job was submitted",
    "deleted": "`berth list` and `berth list --deleted` show your sessions",
    "ca": "`berth ca list` shows the keys",
    "gc": "`berth gc` can be repeated",
    "rebuild": "`berth registry rebuild` can be repeated",
}
"""The second part of a request's path → how to see its result."""


def interrupted_command() -> InterruptedWaitError:
    """Return the error for Ctrl-C; it says if the controller may carry out requests of this command."""
    from urllib.parse import unquote

    from broker.client.http import requested_changes

    requests = [path.split("/")[2:] for path in requested_changes()]
    names = list(dict.fromkeys(unquote(request[1]) for request in requests if request[0] == "sessions"))
    if names:
        sent = "request" if len(names) == 1 else "requests"
        look = f"`berth show {names[0]}` shows its state" if len(names) == 1 else "`berth list` shows their states"
        was = "was sent, and Berth may carry it out" if len(names) == 1 else "were sent, and Berth may carry them out"
        return InterruptedWaitError(f"interrupted; the {sent} for {', '.join(names)} {was}", hint=look)
    if requests:
        message = "interrupted; the request was sent, and Berth may carry it out"
        return InterruptedWaitError(message, hint=_REQUESTS.get(requests[-1][0], ""))
    return InterruptedWaitError("interrupted")


def report_error(error: Exception, *, as_json: bool) -> ExitCode:
    """Write the error's message and hint to stderr or the journal; return the exit code."""
    failure = _as_berth_error(error)
    text = _as_json(failure) if as_json else _as_text(failure)
    if not ("JOURNAL_STREAM" in os.environ and _wrote_to_journal(text)):
        write(f"{text}\n", err=True)
    return failure.exit_code


def _wrote_to_journal(text: str) -> bool:
    """Write the failure to the journal if systemd started this process as a service; return whether it did."""
    from broker.service import journal

    if not journal.is_connected():
        return False
    journal.write_entry(text, journal.ERROR)
    return True


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` is on the command line, for command lines that click cannot parse."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _as_berth_error(error: Exception) -> BerthError:
    if isinstance(error, BerthError):
        return error
    if isinstance(error, OSError) and (failure := _file_error(error)) is not None:
        return failure
    if isinstance(error, click.Abort):
        return interrupted_command()
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "berth"
        return InvalidInputError(_sentence(error.format_message()), hint=f"`{command} --help` shows how to use it")
    if isinstance(error, click.ClickException):
        return BerthError(_sentence(error.format_message()))
    return _internal_error(error)


def _file_error(error: OSError) -> BerthError | None:
    """Return the user's error for a failure that a path, its permissions or a full disk cause; None for any other."""
    if error.filename is None:
        return output_error(error) if error.errno in _DISK_ERRORS else None  # of click's own output, such as help
    if error.errno not in _PATH_ERRORS or not isinstance(error.filename, (str, bytes)):
        return None
    kind = NoSpaceError if error.errno in {errno.ENOSPC, errno.EDQUOT} else BerthError
    message = f"cannot use {os.fsdecode(error.filename)}: {error.strerror}"
    return kind(message, hint="check the path, its permissions, and the space on its file system")


def _sentence(message: str) -> str:
    """Make click's message one line, without its capital and full stop: Berth's messages follow `berth: `."""
    text = " ".join(message.split()).rstrip(".").replace(". Choose from:", "; choose from:")
    return text[:1].lower() + text[1:]


def _as_text(failure: BerthError) -> str:
    text = f"berth: {failure.message}" + (f"\n  hint: {failure.hint}" if failure.hint else "")
    return escape_controls(text, keep="\n")


def _as_json(failure: BerthError) -> str:
    body = {
        "reason": failure.reason,
        "message": failure.message,
        "hint": failure.hint,
        "exit_code": int(failure.exit_code),
    }
    return json.dumps({"error": body})


def _internal_error(error: Exception) -> BerthError:
    """Return the error for a bug in Berth; the traceback goes to a file."""
    import traceback

    summary = f"internal error: {type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(error))
    if os.environ.get("BERTH_DEBUG"):
        write(text, err=True)
        return BerthError(summary)
    try:
        path = _save_traceback(text)
    except OSError:
        return BerthError(summary, hint="BERTH_DEBUG=1 shows the traceback")
    return BerthError(summary, hint=f"please report it with the traceback in {path}; BERTH_DEBUG=1 shows it at once")


def _save_traceback(text: str) -> Path:
    from broker.config.file import xdg_directory

    path = xdg_directory("XDG_STATE_HOME", ".local/state") / "berth" / "traceback.txt"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path
