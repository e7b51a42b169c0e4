"""`berth profile promote`: let a channel name a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.channels import author, print_channels, reason_option, version_argument, version_to_change
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.stores import profile_errors, store_option

if TYPE_CHECKING:
    from pathlib import Path

    from broker.user_input import ProfileReference


@click.command()
@version_argument
@click.option(
    "--channel", type=click.Choice(("candidate", "stable")), default="stable", show_default=True, help="The channel."
)
@reason_option
@store_option
@json_option
@pass_invocation
def promote(invocation: Invocation, wanted: ProfileReference, channel: str, reason: str, store: Path | None) -> None:
    """Make a version stable, or the candidate.

    New sessions of PROFILE get the stable version, and those of PROFILE@candidate the candidate. The former stable
    version becomes `previous` at the same moment. Existing sessions keep their version. You need write permission for
    the store.
    """
    with profile_errors():
        by = author(reason)
        profile, version = version_to_change(invocation, wanted, store)
        channels = profile.promote(version, channel, by)
    print_channels(invocation, profile, channels, f"{profile.name}@{version} is {channel} now")
