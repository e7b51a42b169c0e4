"""`berth profile history`: show the changes of the channels."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.channels import channels_json, profile_to_read
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName
from broker.cli.stores import profile_errors, store_option

if TYPE_CHECKING:
    from pathlib import Path

    from broker.user_input import ProfileReference


@click.command("history")
@click.argument("wanted", type=ProfileName(), metavar="PROFILE")
@store_option
@json_option
@pass_invocation
def profile_history(invocation: Invocation, wanted: ProfileReference, store: Path | None) -> None:
    """Show who changed the channels of a profile, when and why.

    The latest 200 changes, the newest last. TEST says whether a stable version had passed its test, or its promotion
    was `forced`; forced promotions are never left out. A user who may write to the store can change this record.
    """
    from dataclasses import asdict

    from broker.format import format_time

    with profile_errors():
        profile = profile_to_read(invocation, wanted, store)
    events = profile.seen.history
    if invocation.json:
        output.print_json(channels_json(profile, profile.seen) | {"history": [asdict(event) for event in events]})
        return
    output.print_table(
        ("TIME", "USER", "ACTION", "VERSION", "CHANNEL", "BEFORE", "TEST", "REASON"),
        [
            (
                format_time(event.at),
                event.who,
                event.action,
                event.version,
                event.channel,
                event.before,
                event.test,
                event.reason,
            )
            for event in events
        ],
    )
