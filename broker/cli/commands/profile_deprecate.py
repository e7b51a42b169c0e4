"""`berth profile deprecate`: advise against a version."""

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
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.user_input import ProfileReference


@click.command()
@version_argument
@reason_option
@click.option("--instead", metavar="VERSION", help="The version to use instead.")
@undo_option
@store_option
@json_option
@pass_invocation
def deprecate(
    invocation: Invocation,
    wanted: ProfileReference,
    reason: str,
    instead: str | None,
    store: Path | None,
    *,
    undo: bool,
) -> None:
    """Advise against a version.

    It still starts; everybody who uses it reads the reason and the version to use instead. --undo takes the advice
    back. You need write permission for the store.
    """
    with profile_errors():
        from profiles.image.channels_file import DEPRECATED, VersionState

        by = author(reason if undo else required_reason(reason, "deprecate"))
        profile, version = version_to_change(invocation, wanted, store)
        label = f"{profile.name}@{version}"
        if undo:
            if instead is not None:
                raise InvalidInputError("--undo and --instead contradict each other", hint="leave one of them out")
            channels = profile.clear_state(version, DEPRECATED, by)
        else:
            if instead is not None and instead not in set(profile.store.versions(profile.name)) - {version}:
                raise InvalidInputError(
                    f"{instead!r} is no other version of {profile.name}", hint="`berth profile list` shows the versions"
                )
            state = VersionState(DEPRECATED, by.at, by.reason, instead or "")
            channels = profile.set_state(version, state, "deprecate", by)
    print_channels(invocation, profile, channels, f"{label} is {'not ' if undo else ''}deprecated{' any more' * undo}")
