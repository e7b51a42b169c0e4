"""`berth resize`: change the resources of a running session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument, no_wait_option, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.errors import InvalidInputError


@click.command(context_settings={"ignore_unknown_options": True})
@name_argument
@no_wait_option
@timeout_option
@json_option
@click.argument("resources", nargs=-1, type=click.UNPROCESSED, metavar="SBATCH OPTIONS...")
@pass_invocation
def resize(
    invocation: Invocation, name: str, resources: tuple[str, ...], *, no_wait: bool, timeout: float | None
) -> None:
    """Give a running session other resources.

    It goes on in another job, under its name, with its files; programs that ran are gone. The present job ends when the
    next one is in the queue; should Slurm refuse that, nothing is changed. Each option replaces the session's own of
    the same kind, for later starts too.

    \b
      berth resize dev --gres=none            give the GPU back
      berth resize dev --gres=gpu:intel:1 --mem=32G
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from slurm.sbatch import OptionError, parse_options

    try:
        options = parse_options(resources)
    except OptionError as error:
        raise InvalidInputError(str(error), hint="sbatch(1) explains the options") from error
    if not options:
        raise InvalidInputError("what is it to have?", hint=f"`berth resize {name} --gres=none`, for example")
    before = invocation.client.session(name)
    view = invocation.client.resize(name, options)
    if not no_wait:
        from broker.cli.wait import until_resized

        view = until_resized(invocation, view, before.job_id, timeout=timeout)
    if invocation.json:
        output.print_json(view)
    elif no_wait:
        output.print_note(f"{name} goes on in another job as soon as Slurm has it")
    else:
        from broker.cli.session_text import state_line

        output.print_note(state_line(view))
