"""`berth extend`: give a session's running job more time."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time

import click

from broker.cli import output
from broker.cli.commands.sessions import reference_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.time_params import Duration
from broker.names import MAX_EXTENSION_S


@click.command()
@reference_argument
@click.argument("seconds", type=Duration(longest_s=MAX_EXTENSION_S), metavar="TIME")
@json_option
@pass_invocation
def extend(invocation: Invocation, name: str, seconds: float) -> None:
    """Extend the time limit of a session's job.

    TIME is added to the limit: 90 (minutes), 30m, 4h, 1h30m, 2d, or a form of Slurm such as 1:30:00 or 2-12. If the
    site does not allow it, nothing is changed, and the message says what happens at the job's end; exit code 4.

    \b
      berth extend dev 4h
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.format import format_duration, format_time

    view = invocation.client.extend(name, seconds)
    if invocation.json:
        output.print_json(view)
    elif view.ends_at is not None:
        now = time.time()
        output.print_note(
            f"{name}: the job ends at {format_time(view.ends_at, now)} (in {format_duration(view.ends_at - now)})"
        )
