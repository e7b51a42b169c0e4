"""`berth profile promote`: let a channel name a version."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from broker.cli.channels import (
    author,
    print_channels,
    reason_option,
    required_reason,
    version_argument,
    version_to_change,
)
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.stores import profile_errors, store_option
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.user_input import ProfileReference


@click.command()
@version_argument
@click.option(
    "--channel", type=click.Choice(("candidate", "stable")), default="stable", show_default=True, help="The channel."
)
@click.option(
    "--without-checks",
    is_flag=True,
    help="Make it stable although it has not passed a test. The history keeps that for ever; needs --reason.",
)
@reason_option
@store_option
@json_option
@pass_invocation
def promote(
    invocation: Invocation,
    wanted: ProfileReference,
    *,
    channel: str,
    without_checks: bool,
    reason: str,
    store: Path | None,
) -> None:
    """Make a version stable, or the candidate.

    New sessions of PROFILE get the stable version, and those of PROFILE@candidate the candidate. The former stable
    version becomes `previous` at the same moment. Sessions that follow the channel are offered
    it. You need write permission for the store.

    A version becomes stable only after it has passed `berth profile test`, in exactly this image; a candidate needs no
    test.
    """
    if without_checks and channel != "stable":
        raise InvalidInputError("a candidate needs no test", hint="leave out --without-checks")
    with profile_errors():
        from profiles.image.channels_file import FORCED, PASSED
        from profiles.image.store import Store
        from profiles.image.verdict_file import require_passed

        forced = required_reason(reason, "a promotion without a passed test") if without_checks else reason
        by = author(forced)
        profile, version = version_to_change(invocation, wanted, store)
        if channel != "stable":
            channels = profile.promote(version, channel, by)
        elif without_checks:
            channels = profile.promote(version, channel, replace(by, test=FORCED))
        else:
            by, place = replace(by, test=PASSED), profile.store
            assert isinstance(place, Store), "only a store has channels that change"
            channels = profile.promote(
                version, channel, by, require=lambda: require_passed(place.read(profile.name, version))
            )
    untested = ", without a passed test" if without_checks else ""
    print_channels(invocation, profile, channels, f"{profile.name}@{version} is {channel} now{untested}")
