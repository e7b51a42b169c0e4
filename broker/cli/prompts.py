"""Ask for confirmation before something is lost: with a question on a terminal, elsewhere only by `--yes`."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from broker.cli.output import escape_controls, is_terminal, print_note
from broker.errors import BerthError, InvalidInputError

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from broker.schema.sessions import SessionView

yes_option = click.option("--yes", is_flag=True, help="Do not ask. Required without a terminal.")


def confirm(question: str, *, undone: str, yes: bool) -> None:
    """Return if the user agrees, or used `--yes`.

    Otherwise raise with the message `undone`, such as "dev was not deleted": BerthError for a no, InvalidInputError
    without a terminal.
    """
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise InvalidInputError(f"{undone}: there is no terminal to ask at", hint="--yes continues without a question")
    if not click.confirm(escape_controls(question), err=True):
        raise BerthError(undone)


def announce_restart(invocation: Invocation, view: SessionView, plan: str, *, undone: str, yes: bool) -> None:
    """Print the plan; if the session has a job, ask before the job is ended.

    The question is only about running programs: the session's files are kept as a snapshot.
    """
    from broker.cli.session_text import has_job

    running = has_job(view)
    if not invocation.json:
        ends = "its programs end, and it is started again afterwards" if running else "it has no job and stays stopped"
        print_note(f"{view.name}: {plan}; {ends}")
    if running:
        confirm(f"End all programs in {view.name}?", undone=undone, yes=yes)
