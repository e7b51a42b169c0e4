"""`berth profile rollback`: make the previous version stable again."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.channels import author, print_channels, profile_to_read, reason_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName
from broker.cli.stores import profile_errors, store_option

if TYPE_CHECKING:
    from pathlib import Path

    from broker.user_input import ProfileReference


@click.command("rollback")
@click.argument("wanted", type=ProfileName(), metavar="PROFILE")
@reason_option
@store_option
@json_option
@pass_invocation
def profile_rollback(invocation: Invocation, wanted: ProfileReference, reason: str, store: Path | None) -> None:
    """Make the previous version stable again.

    The version that was stable becomes `previous`. Sessions that follow stable are offered
    the other version. You need write permission for the store.
    """
    from profiles.image.channels_file import STABLE

    with profile_errors():
        by = author(reason)
        profile = profile_to_read(invocation, wanted, store)
        profile.store.check_writable(profile.name)
        channels = profile.rollback(by)
    print_channels(invocation, profile, channels, f"{profile.name}@{channels.versions[STABLE]} is stable again")
