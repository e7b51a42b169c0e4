"""Find the version that a reference to a profile means: a version, a channel, or nothing but the name.

The standard library alone: the launcher's children import this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from profiles.errors import DamagedChannelsError, NoSuchImageError
from profiles.image.channels_file import CHANNELS, STABLE, Channels
from profiles.recipe.versions import distinct_version_key

if TYPE_CHECKING:
    from collections.abc import Sequence


class ChannelSource(Protocol):
    """A store, as far as this needs it."""

    def versions(self, name: str) -> list[str]: ...
    def channels(self, name: str) -> Channels: ...


def resolve_version(stores: Sequence[ChannelSource], name: str, wanted: str | None) -> str | None:
    """Return the version that `NAME` or `NAME@WANTED` means in the stores of one owner; None without such a profile.

    A version that no store has is returned unchanged. A published version that is called like a channel keeps its name.
    Of several stores, the first that names the channel decides. The name alone means stable; where no store names a
    stable version, the newest that is not retired, or the newest.

    Raises NoSuchImageError for a channel that names nothing. Raises DamagedChannelsError if a file cannot be used that
    decides, or if it names a version that is not there; never for a version.
    """
    holders = [store for store in stores if store.versions(name)]
    every = {version for store in holders for version in store.versions(name)}
    if wanted is not None and (wanted not in CHANNELS or wanted in every):
        return wanted
    if not every:
        return None
    channel = wanted or STABLE
    retired: set[str] = set()
    seen: set[str] = set()
    for store in holders:
        channels, versions = store.channels(name), set(store.versions(name))
        if channel in channels.versions:
            return _there(name, channel, channels.versions[channel], versions)
        retired |= {version for version in versions - seen if channels.is_retired(version)}
        seen |= versions
    if wanted is not None:
        newest = max(every, key=distinct_version_key)
        raise NoSuchImageError(
            f"profile {name} has no {channel} version",
            hint=f"the newest one is {name}@{newest}; `berth profile promote {name}@VERSION` names one",
        )
    return max(every - retired or every, key=distinct_version_key)


def followed_version(stores: Sequence[ChannelSource], name: str, follow: str) -> str | None:
    """Return the version that a session gets which follows a channel or a version; None if there is none.

    Only a store whose channels name a version moves sessions: without a channel, a newer version is no reason. Nor is a
    retired version one. Raises DamagedChannelsError if a file cannot be used that decides.
    """
    for store in stores:
        versions, channels = store.versions(name), store.channels(name)
        version = channels.versions.get(follow) if follow in CHANNELS else follow
        if version in versions:
            return None if channels.is_retired(version) else version
    return None


def _there(name: str, channel: str, version: str, versions: set[str]) -> str:
    if version not in versions:
        there = ", ".join(sorted(versions, key=distinct_version_key))
        raise DamagedChannelsError(
            f"{channel} of the profile {name} is {version}, and there is no such version",
            hint=f"there is: {there}; `berth profile promote {name}@VERSION` names another one",
        )
    return version
