"""`berth extend`: give a session's running job more time."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import Time


@click.command()
@name_argument
@click.argument("seconds", type=Time(), metavar="TIME")
@json_option
@pass_invocation
def extend(invocation: Invocation, name: str, seconds: float) -> None:
    """Give the job of a running session more time.

    TIME is what is added, such as 30m or 4h. Not every site lets jobs be extended: then it is said what happens at the
    end, and nothing is changed; exit code 4.
    """
    from broker.format import format_duration, format_time

    view = invocation.client.extend(name, seconds)
    if invocation.json:
        output.print_json(view)
    elif view.ends_at is not None:
        now = time.time()
        output.print_note(
            f"{name}: the job ends at {format_time(view.ends_at, now)} (in {format_duration(view.ends_at - now)})"
        )
