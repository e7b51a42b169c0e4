"""Parts that the commands of channels share: the profile to change, its author, the answer, and notes on versions."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
import os
import pwd
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.params import ProfileName
from broker.cli.stores import catalog_of, config_catalog
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.cli.context import Invocation
    from broker.schema.environments import EnvironmentView
    from broker.schema.sessions import SessionView
    from broker.user_input import ProfileReference
    from profiles.image.catalog import Catalog
    from profiles.image.channel_changes import ChannelAuthor, ProfileChannels
    from profiles.image.channels_file import Channels
    from profiles.image.store import Image

version_argument = click.argument("wanted", type=ProfileName(), metavar="PROFILE@VERSION")
reason_option = click.option("--reason", metavar="TEXT", default="", help="One line for the history.")
undo_option = click.option("--undo", is_flag=True, help="Make it a usual version again.")


def version_to_change(
    invocation: Invocation, wanted: ProfileReference, store: Path | None
) -> tuple[ProfileChannels, str]:
    """Return the channels of the store that has the version, and the version.

    InvalidInputError without a version, or if the site and the user both have it; StoreError unless this user may write
    to the store; raises as Catalog.find.
    """
    from profiles.image.catalog import split_owner
    from profiles.image.channel_changes import ProfileChannels
    from profiles.image.store import Store

    if wanted.version is None:
        raise InvalidInputError(
            f"the version of {wanted.name} is missing", hint="use NAME@VERSION; `berth profile list` shows the versions"
        )
    catalog = catalog_of(invocation, store)
    image = catalog.find(wanted.name, wanted.version)
    holders = catalog.holders(wanted.name, image.version)
    _require_one_owner({owner for owner, _ in holders}, str(wanted))
    place, name = image.directory.parent.parent, split_owner(wanted.name)[1]
    holder = next((each for _, each in holders if each.path == place), Store(place))
    holder.check_writable(name)
    return ProfileChannels.read(holder, name), image.version


def profile_to_read(invocation: Invocation, wanted: ProfileReference, store: Path | None) -> ProfileChannels:
    """Return the channels of a profile: of the first store that has some. Raises as `version_to_change`."""
    from profiles.image.catalog import split_owner
    from profiles.image.channel_changes import ProfileChannels
    from profiles.image.channels_file import NO_CHANNELS

    if wanted.version is not None:
        raise InvalidInputError(
            f"{wanted} names a version, and this command is about all of them", hint=f"use {wanted.name}"
        )
    catalog = catalog_of(invocation, store)
    owner, name = split_owner(wanted.name)
    holders = [
        (each, place)
        for each, stores in catalog.stores.items()
        for place in stores.stores
        if owner in {"", each} and place.versions(name)
    ]
    if not holders:
        catalog.find(wanted.name)  # raises with the alternatives
    _require_one_owner({each for each, _ in holders}, wanted.name)
    found = [ProfileChannels.read(place, name) for _, place in holders]
    return next((each for each in found if each.seen != NO_CHANNELS), found[0])


def author(reason: str) -> ChannelAuthor:
    """Return this user as the author of a change. InvalidInputError for a reason that cannot be shown."""
    from profiles.image.channel_changes import ChannelAuthor

    uid = os.getuid()
    try:
        who = pwd.getpwuid(uid).pw_name
    except KeyError:
        who = str(uid)
    return ChannelAuthor(who, time.time(), _check_reason(reason) if reason else "")


def required_reason(reason: str, what: str) -> str:
    """Return the reason; InvalidInputError without one."""
    if not reason:
        raise InvalidInputError(f"{what} needs a reason", hint="--reason TEXT says it to those who use the version")
    return _check_reason(reason)


def print_channels(invocation: Invocation, profile: ProfileChannels, channels: Channels, done: str) -> None:
    """Print the channels of a profile after a change, as JSON, or the sentence `done`."""
    if invocation.json:
        output.print_json(channels_json(profile, channels))
    else:
        output.print_note(done)


def channels_json(profile: ProfileChannels, channels: Channels) -> dict[str, object]:
    """Return the channels as a JSON object, without the history."""
    states = {version: asdict(state) for version, state in channels.states.items()}
    named = {"channels": dict(channels.versions), "versions": states}
    return {"name": profile.name, "store": str(profile.store.path), **named}


def note_deprecated_profile(invocation: Invocation, reference: str, version: str | None) -> None:
    """Say that the version which a reference means is deprecated. Say nothing if it cannot be found."""
    from profiles.errors import ProfilesError

    with contextlib.suppress(ProfilesError):
        catalog = config_catalog(invocation.config)
        _note_state(catalog, catalog.find(reference, version))


def note_deprecated_session(invocation: Invocation, made: SessionView | EnvironmentView) -> None:
    """Say that the version of a session, or of a job's environment, is deprecated or retired.

    Reads the files alone: the modules of images would take longer to load than all the rest of `berth start`.
    """
    from broker.config.user_storage import user_storage
    from profiles.errors import ProfilesError
    from profiles.image.channels_file import read_channels_text
    from profiles.image.store_reader import OWN_STORE

    own = user_storage(invocation.config) / OWN_STORE
    for store in (*invocation.config.profiles.stores, own):
        with contextlib.suppress(ProfilesError):
            channels = read_channels_text(store / made.profile, own=store == own).parse()
            state = channels.states.get(made.version)
            if state is not None and _has_digest(store / made.profile / made.version, made.digest, own=store == own):
                output.print_note(state.describe(f"{made.profile}@{made.version}"))
                return


def _has_digest(image: Path, digest: str, *, own: bool) -> bool:
    import json

    from profiles.image.store_reader import DESCRIPTION, MAX_OWN_DESCRIPTION_BYTES
    from profiles.userfile import read_text

    try:
        described = json.loads(read_text(image / DESCRIPTION, MAX_OWN_DESCRIPTION_BYTES, own=own, follow=not own))
        return bool(described["digest"] == digest)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _note_state(catalog: Catalog, image: Image) -> None:
    if (state := catalog.state_of(image)) is not None:
        output.print_note(state.describe(f"{image.name}@{image.version}"))


def _require_one_owner(owners: set[str], reference: str) -> None:
    if len(owners) > 1:
        raise InvalidInputError(
            f"the site and you each have {reference}", hint=f"say which: site/{reference} or own/{reference}"
        )


def _check_reason(reason: str) -> str:
    from profiles.image.channels_file import check_reason

    try:
        return check_reason(reason)
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
