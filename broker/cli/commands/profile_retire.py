"""`berth profile retire`: let nothing new start from a version."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.channels import (
    author,
    print_channels,
    reason_option,
    required_reason,
    undo_option,
    version_argument,
    version_to_change,
)
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.stores import profile_errors, store_option

if TYPE_CHECKING:
    from pathlib import Path

    from broker.user_input import ProfileReference


@click.command()
@version_argument
@reason_option
@undo_option
@store_option
@json_option
@pass_invocation
def retire(invocation: Invocation, wanted: ProfileReference, reason: str, store: Path | None, *, undo: bool) -> None:
    """Let nothing new start from a version.

    No new session starts from it, and no session switches to it. Sessions that have it keep working and restarting. A
    stable version cannot be retired. --undo makes it usable again. You need write permission for the store.
    """
    with profile_errors():
        from profiles.image.channels_file import RETIRED, VersionState

        by = author(reason if undo else required_reason(reason, "retire"))
        profile, version = version_to_change(invocation, wanted, store)
        if undo:
            channels = profile.clear_state(version, RETIRED, by)
        else:
            channels = profile.set_state(version, VersionState(RETIRED, by.at, by.reason), "retire", by)
    label = f"{profile.name}@{version}"
    print_channels(invocation, profile, channels, f"{label} is {'not ' if undo else ''}retired{' any more' * undo}")
