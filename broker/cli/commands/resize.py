"""`berth resize`: change the resources of a running session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument, no_wait_option, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.resources import ResourceCommand, parse_resources
from broker.errors import InvalidInputError


@click.command(cls=ResourceCommand, context_settings={"ignore_unknown_options": True})
@name_argument
@no_wait_option
@timeout_option
@json_option
@click.argument("resources", nargs=-1, type=click.UNPROCESSED, metavar="SBATCH OPTIONS...")
@pass_invocation
def resize(
    invocation: Invocation, name: str, resources: tuple[str, ...], *, no_wait: bool, timeout: float | None
) -> None:
    """Change the resources of a running session.

    The session continues in a new job with its files; running programs end. The present job ends when the new one is in
    the queue. If Slurm refuses the new job, nothing is changed. Each option replaces the session's option of the same
    name, also for later starts.

    \b
      berth resize dev --gres=none            release the GPU
      berth resize dev --gres=gpu:intel:1 --mem=32G
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    options = parse_resources(resources, hint="sbatch(1) explains the options")
    if not options:
        raise InvalidInputError("no resource options were given", hint=f"for example `berth resize {name} --gres=none`")
    before = invocation.client.session(name)
    view = invocation.client.resize(name, options)
    if not no_wait:
        from broker.cli.wait import until_resized

        view = until_resized(invocation, view, before.job_id, timeout=timeout)
    if invocation.json:
        output.print_json(view)
    elif no_wait:
        output.print_note(f"{name} will continue in a new job when Slurm has queued it")
    else:
        from broker.cli.session_text import state_line

        output.print_note(state_line(view))
