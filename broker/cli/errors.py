"""Report each failure of a command: text or one JSON object on stderr, and one exit code."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from broker.cli.output import escape_controls
from broker.errors import BerthError, ExitCode, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class InterruptedWaitError(BerthError):
    """The user pressed Ctrl-C; the message says what goes on all the same."""

    reason = "interrupted"
    exit_code = ExitCode.INTERRUPTED


def report_error(error: Exception, *, as_json: bool) -> ExitCode:
    """Say what failed and how to mend it; return the code to end with."""
    failure = _as_berth_error(error)
    text = _as_json(failure) if as_json else _as_words(failure)
    if not ("JOURNAL_STREAM" in os.environ and _wrote_to_journal(text)):
        click.echo(text, err=True)
    return failure.exit_code


def _wrote_to_journal(text: str) -> bool:
    """Write the failure of a service that systemd has started to the journal; False if this is none."""
    from broker.service import journal

    if not journal.is_connected():
        return False
    journal.write_entry(text, journal.ERROR)
    return True


def wants_json(words: Sequence[str]) -> bool:
    """Whether `--json` stands on the command line; for command lines so wrong that click never came to read it."""
    before = words[: words.index("--")] if "--" in words else words
    return "--json" in before


def _as_berth_error(error: Exception) -> BerthError:
    if isinstance(error, BerthError):
        return error
    if isinstance(error, click.Abort):
        return InterruptedWaitError("interrupted")
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "berth"
        return InvalidInputError(_sentence(error.format_message()), hint=f"`{command} --help` shows how to use it")
    if isinstance(error, click.ClickException):
        return BerthError(_sentence(error.format_message()))
    return _unexpected(error)


def _sentence(message: str) -> str:
    """Click's messages are sentences with a capital and a full stop; ours follow `berth: `."""
    text = message.rstrip(".")
    return text[:1].lower() + text[1:]


def _as_words(failure: BerthError) -> str:
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


def _unexpected(error: Exception) -> BerthError:
    """A fault of ours: keep the traceback out of the way but where it can be found."""
    import traceback

    summary = f"this is a fault in berth: {type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(error))
    if os.environ.get("BERTH_DEBUG"):
        click.echo(text, err=True, nl=False)
        return BerthError(summary)
    try:
        place = _keep(text)
    except OSError:
        return BerthError(summary, hint="BERTH_DEBUG=1 shows where it happened")
    return BerthError(summary, hint=f"{place} has the traceback; please report it. BERTH_DEBUG=1 shows it at once")


def _keep(text: str) -> Path:
    from broker.config.file import xdg_directory

    place = xdg_directory("XDG_STATE_HOME", ".local/state") / "berth" / "traceback.txt"
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    place.chmod(0o600)
    return place
