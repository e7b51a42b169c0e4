"""The launcher's verb for images: read the user's own store, as that user and within limits.

The standard library and the bounded reader only, as session_verbs. Whatever is wrong with the files is a part of the
answer, so that the controller can say it beside the profiles that there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.volumes.errors import from_os_error
from profiles.errors import ProfilesError
from profiles.image import store_reader
from profiles.image.channels_file import Channels, ChannelsText, read_channels_text
from profiles.image.resolution import resolve_version

if TYPE_CHECKING:
    from pathlib import Path

    from broker.launcher.arguments import OwnImageArguments
    from broker.launcher.request import RequestContext


def own_image(context: RequestContext, arguments: OwnImageArguments) -> dict[str, Any]:
    """Return what the user's own store has of a profile: its versions, its channels, and one version.

    That is the requested one, that of a channel, or the one that the name alone means.
    """
    store = context.root / store_reader.OWN_STORE
    answer: dict[str, Any] = {"store": str(store), "names": [], "versions": []}
    try:
        answer["names"] = store_reader.profile_names(store)
        answer["versions"] = versions = store_reader.image_versions(store, arguments.profile)
        channels = read_channels_text(store / arguments.profile, own=True) if versions else None
        if channels is not None:
            answer |= {"channels": channels.text, "channels_problem": channels.problem}
        version = _resolve(versions, channels, arguments)
        if version in versions:
            answer |= {"version": version, **_read(store, arguments, version)}
    except OSError as error:
        answer["problem"] = str(from_os_error(error))
    except ProfilesError as error:
        answer["problem"] = error.message
    return answer


@dataclass(frozen=True, slots=True)
class _ReadProfile:
    """The versions and the channels of one profile, as they were read."""

    listed: list[str]
    text: ChannelsText

    def versions(self, _: str) -> list[str]:
        return self.listed

    def channels(self, _: str) -> Channels:
        return self.text.parse()


def _resolve(versions: list[str], channels: ChannelsText | None, arguments: OwnImageArguments) -> str:
    """Return the version to read; empty if there is none, for which the controller finds the same reason."""
    if channels is None:
        return ""
    try:
        return resolve_version([_ReadProfile(versions, channels)], arguments.profile, arguments.version) or ""
    except ProfilesError:
        return ""


def _read(store: Path, arguments: OwnImageArguments, version: str) -> dict[str, Any]:
    stored = store_reader.read_stored_image(store, arguments.profile, version)
    packages = store_reader.read_stored_packages(store, arguments.profile, version) if arguments.packages else ""
    return {
        "description": stored.description,
        "size": stored.size,
        "offset": stored.offset,
        "packages": packages,
        "signature": stored.signature.text,
        "signature_problem": stored.signature.problem,
    }
