"""Ask for confirmation before something is lost: with a question on a terminal, elsewhere only by `--yes`.

Before a question, the controller has checked the request: no user is asked about something that cannot be done.
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from broker.cli.output import is_terminal, print_note
from broker.cli.questions import ask_yes_no
from broker.errors import BerthError, InvalidInputError
from broker.text.question import ask_end_programs, ask_stop, describe_plan, describe_use

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.cli.context import Invocation
    from broker.schema.checks import CheckReport

yes_option = click.option("--yes", is_flag=True, help="Do not ask. Required without a terminal.")
optional_yes_option = click.option("--yes", is_flag=True, help="Do not ask. Without a terminal, no question is asked.")


def confirm(question: str, *, undone: str, yes: bool) -> None:
    """Return if the user agrees, or used `--yes`.

    Otherwise raise with the message `undone`, such as "dev was not deleted": BerthError for a no, InvalidInputError
    without a terminal.
    """
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise InvalidInputError(f"{undone}: there is no terminal to ask at", hint="--yes continues without a question")
    if not ask_yes_no(question):
        raise BerthError(undone)


def confirm_stop(invocation: Invocation, names: Sequence[str], *, yes: bool) -> None:
    """Ask before a stop of sessions that are in use.

    Return without a question if none is in use, with `--yes`, or without a terminal: a stop keeps all files. Raise
    as `confirm`.
    """
    if yes or not is_terminal(sys.stdin):
        return
    used = {name: text for name in names if (text := _describe_use(invocation, name))}
    if used:
        confirm(ask_stop(names, used), undone="nothing was stopped", yes=False)


def _describe_use(invocation: Invocation, name: str) -> str:
    """Return how many terminals and connections the session has; empty if none are known."""
    try:
        presence = invocation.client.presence(name)
    except BerthError:
        return ""  # the command itself reports the error
    return describe_use(presence)


def check_request(invocation: Invocation, name: str, *, yes: bool = False, **request: object) -> CheckReport:
    """Return the controller's report on a request, which is one field of CheckRequest; nothing is changed.

    If the request would be refused, its error is raised. The report has an estimate of the next start if the user will
    be asked.
    """
    from broker.cli.progress import ProgressLine
    from broker.schema.checks import CheckRequest

    asks = not yes and not invocation.json and is_terminal(sys.stdin)
    with ProgressLine(quiet=invocation.json) as progress:
        if asks and progress.changes:
            progress.show(f"{name}: checking, and asking Slurm")
        return invocation.client.check(name, CheckRequest.model_validate(request | {"estimate": asks}))


def announce_restart(invocation: Invocation, report: CheckReport, plan: str, *, undone: str, yes: bool) -> None:
    """Print the plan; if the request ends a job, ask before.

    The question is only about running programs: the session's files are kept as a snapshot.
    """
    announce_plan(invocation, report, plan)
    if report.ends_job:
        confirm(ask_end_programs([report.session.name]), undone=undone, yes=yes)


def confirm_at_terminal(invocation: Invocation, reports: Sequence[CheckReport], plan: str, *, undone: str) -> None:
    """Print the plan for each session whose job ends, and ask once for all of them.

    For commands that ask at a terminal only, because scripts have always used them without `--yes`.
    """
    ending = [report for report in reports if report.ends_job]
    for report in ending:
        announce_plan(invocation, report, plan)
    if ending:
        confirm(ask_end_programs([report.session.name for report in ending]), undone=undone, yes=False)


def announce_plan(invocation: Invocation, report: CheckReport, plan: str) -> None:
    """Print the plan and, if the request ends a job, what Slurm expects for the next one."""
    if invocation.json:
        return
    for line in describe_plan(report, plan, time.time()):
        print_note(line)
