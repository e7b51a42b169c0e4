"""`berth resize`: change the resources of a running session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument, no_wait_option, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.prompts import check_request, confirm_at_terminal, optional_yes_option
from broker.cli.resources import ResourceCommand, parse_resources
from broker.errors import InvalidInputError
from broker.text.question import describe_resize_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.sessions import PresentJob, SessionView


@click.command(cls=ResourceCommand, context_settings={"ignore_unknown_options": True})
@name_argument
@click.option("--keep", is_flag=True, help="Change nothing unless Slurm expects to run both jobs for a moment.")
@click.option("--end-first", is_flag=True, help="End the present job as soon as the new one is in the queue.")
@click.option("--cancel", is_flag=True, help="Cancel a resize that waits: the session keeps its present job.")
@optional_yes_option
@no_wait_option
@timeout_option
@json_option
@click.argument("resources", nargs=-1, type=click.UNPROCESSED, metavar="SBATCH OPTIONS...")
@pass_invocation
def resize(
    invocation: Invocation,
    name: str,
    resources: tuple[str, ...],
    *,
    keep: bool,
    end_first: bool,
    cancel: bool,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Change the resources of a running session.

    The session continues in a new job with its files; running programs end. If Slurm expects to start the new job
    beside the present one, the present job ends when the new one runs. Otherwise it ends when the new one is in the
    queue, and the session may have to wait. At a terminal, the command says which of the two, and when Slurm expects
    the start, and asks. If Slurm refuses the new job, nothing is changed. Each option replaces the session's option of
    the same name, also for later starts. If the session has the resources already, nothing is changed; with --time, it
    gets a new job in any case.

    \b
      berth resize dev --gres=none            release the GPU
      berth resize dev --gres=gpu:intel:1 --mem=32G
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    options = parse_resources(resources, hint="sbatch(1) explains the options")
    if keep + end_first + cancel > 1 or (cancel and options):
        raise InvalidInputError("use one of --keep, --end-first and --cancel, and --cancel without resource options")
    if cancel:
        withdraw(invocation, name)
        return
    if not options:
        raise InvalidInputError("no resource options were given", hint=f"for example `berth resize {name} --gres=none`")
    present_job: PresentJob = "keep" if keep else "end" if end_first else "auto"
    unasked = yes or not output.is_terminal(sys.stdin)
    report = check_request(invocation, name, yes=unasked, resize={"options": options, "present_job": present_job})
    if report.unchanged:
        _print_unchanged(invocation, report.session, options)
        return
    if not unasked:
        confirm_at_terminal(invocation, [report], describe_resize_plan(options), undone=f"{name} was not resized")
        if present_job == "auto" and not invocation.json:  # with --json, Slurm was not asked, and nothing was said
            present_job = "keep" if report.beside else "end"  # what the user has agreed to
    view = invocation.client.resize(name, options, present_job)
    if not no_wait:
        from broker.cli.wait import until_resized

        view = until_resized(invocation, view, report.session.job_id, timeout=timeout)
    if invocation.json:
        output.print_json(view)
    elif no_wait:
        when = "when that runs" if view.beside else "when Slurm has queued it"
        output.print_note(f"{name} will continue in a new job {when}")
    else:
        from broker.text.session import state_line

        output.print_note(state_line(view))


def _print_unchanged(invocation: Invocation, view: SessionView, options: Sequence[str]) -> None:
    if invocation.json:
        output.print_json(view)
    else:
        output.print_note(f"{view.name} has {shlex.join(options)} already; nothing was changed")


def withdraw(invocation: Invocation, name: str) -> None:
    """Cancel a resize that waits, and print the session's state."""
    view = invocation.client.withdraw_resize(name)
    if invocation.json:
        output.print_json(view)
    else:
        output.print_note(f"{name} keeps job {view.job_id}")
