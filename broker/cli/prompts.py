"""Ask for confirmation before something is lost: with a question on a terminal, elsewhere only by `--yes`."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from broker.cli.output import escape_controls, print_note
from broker.errors import BerthError, InvalidInputError

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from broker.schema.sessions import SessionView

yes_option = click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal to ask at.")


def confirm(question: str, *, undone: str, yes: bool) -> None:
    """Return if the user agrees, or said so with `--yes`.

    Otherwise raise with `undone`, such as "dev was not deleted": BerthError for a no, InvalidInputError where nobody
    can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInputError(f"{undone}: there is no terminal to ask at", hint="--yes goes on without asking")
    if not click.confirm(escape_controls(question), err=True):
        raise BerthError(undone)


def announce_restart(invocation: Invocation, view: SessionView, plan: str, *, undone: str, yes: bool) -> None:
    """Say what will be done; if the session has a job, that it ends, and ask before it does.

    Only people's running programs are asked about: what lies in the session is kept as a snapshot.
    """
    from broker.cli.session_text import has_job

    running = has_job(view)
    if not invocation.json:
        ends = (
            "what runs in it ends, and it is started again afterwards"
            if running
            else "it has no job, and is left without one"
        )
        print_note(f"{view.name}: {plan}; {ends}")
    if running:
        confirm(f"End what runs in {view.name}?", undone=undone, yes=yes)
