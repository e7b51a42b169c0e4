"""A user's own store of images, which only that user can read, and the launcher's reading of one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.errors import DamagedImageError, ProfilesError, StoreError
from profiles.image import store_reader
from profiles.image.channels_file import NO_CHANNELS, Channels, ChannelsText, read_channels_text
from profiles.image.store import REBUILD_HINT, Image, Store, parse_image
from profiles.image.store_reader import DESCRIPTION, IMAGE, StoredImage
from profiles.userfile import UnfitFileError

if TYPE_CHECKING:
    from pathlib import Path


MAX_TIME_S = 1e11
"""Seconds since the epoch; a larger number would be milliseconds by mistake."""
_DIGEST = re.compile("sha256:[0-9a-f]{64}")


class OwnStore(Store):
    """The store of the user of this process, as `store_reader` reads it: nothing in it is followed or waited for."""

    DIRECTORY_MODE, FILE_MODE = 0o700, 0o600

    def names(self) -> list[str]:
        """List the profiles. Raises DamagedImageError if the store must not be read."""
        try:
            return store_reader.profile_names(self.path)
        except OSError as error:
            raise _unreadable_image(error) from error

    def versions(self, name: str) -> list[str]:
        """List the versions of `name`, oldest first. Raises DamagedImageError if they must not be read."""
        try:
            return store_reader.image_versions(self.path, name)
        except OSError as error:
            raise _unreadable_image(error) from error

    def channels(self, name: str) -> Channels:
        """Return the channels of a profile. Raises DamagedChannelsError."""
        return read_channels_text(self.path / name, own=True).parse()

    def read(self, name: str, version: str) -> Image:
        """Return a version that is listed. Raises DamagedImageError."""
        try:
            return image_of_stored(store_reader.read_stored_image(self.path, name, version), self.path / name / version)
        except OSError as error:
            raise _unreadable_image(error) from error
        except DamagedImageError:
            raise
        except ProfilesError as error:
            raise DamagedImageError(error.message, hint=REBUILD_HINT) from error

    def stage(self, name: str, version: str) -> Path:
        """As Store.stage. StoreError also if the store is a link, or other users can change it."""
        for directory in (self.path.parent, self.path, self.path / name):
            try:
                store_reader.require_own_directory(directory)
            except FileNotFoundError:
                break
            except UnfitFileError as error:
                raise StoreError(
                    f"{error.filename} {error.strerror}",
                    hint="no other user may change the images that your sessions start from",
                ) from error
        return super().stage(name, version)


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """The launcher's reading of one profile in a user's own store."""

    path: Path
    names: list[str]
    versions: list[str]
    """The versions of the profile, oldest first."""
    version: str = ""
    """The version that was read; empty if it is not there."""
    stored: StoredImage | None = None
    problem: str = ""
    """The reason why something could not be read."""
    channels: ChannelsText | None = None


class AnsweredStore(Store):
    """A user's own store as the launcher's answer describes it. It reads nothing itself."""

    def __init__(self, answer: StoreAnswer, name: str) -> None:
        super().__init__(answer.path)
        self._answer = answer
        self._name = name

    def names(self) -> list[str]:
        return self._answer.names

    def versions(self, name: str) -> list[str]:
        if self._answer.problem and not self._answer.version:
            raise DamagedImageError(self._answer.problem, hint=REBUILD_HINT)
        return self._answer.versions if name == self._name else []

    def channels(self, name: str) -> Channels:
        return self._answer.channels.parse() if self._answer.channels and name == self._name else NO_CHANNELS

    def read(self, name: str, version: str) -> Image:
        stored = self._answer.stored
        if stored is None or (name, version) != (self._name, self._answer.version):
            raise DamagedImageError(self._answer.problem or f"{name}@{version} was not read", hint=REBUILD_HINT)
        return image_of_stored(stored, self.path / name / version)


def image_of_stored(stored: StoredImage, directory: Path) -> Image:
    """Return the image in `directory` of a user's own store. Raises DamagedImageError.

    The offset is that of the SIF file, whatever its description says. Digest, size and time have their forms, since the
    registry stores them and commands show them.
    """
    image = parse_image(stored.description.encode(errors="replace"), directory, stored.offset, stored.signature)
    if not _DIGEST.fullmatch(image.digest) or not 0 <= image.created < MAX_TIME_S:
        raise DamagedImageError(f"{directory / DESCRIPTION} has no valid digest or time", hint=REBUILD_HINT)
    if image.size != stored.size:
        raise DamagedImageError(
            f"{directory / IMAGE} has {stored.size} bytes instead of {image.size}", hint=REBUILD_HINT
        )
    return image


def _unreadable_image(error: OSError) -> DamagedImageError:
    why = error.strerror if isinstance(error, UnfitFileError) else f"cannot be read: {error.strerror}"
    return DamagedImageError(f"{error.filename} {why}", hint=REBUILD_HINT)
