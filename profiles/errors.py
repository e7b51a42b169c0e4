"""Errors of profiles and images.

The broker turns these into its own errors; `message` and `hint` are for the user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class ProfilesError(Exception):
    """Any failure of this package, with its message and its remedy."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ProfileError(ProfilesError):
    """A profile's text is wrong. `line` and `column` count from 1; 0 means the file or line as a whole."""

    def __init__(self, message: str, *, file: Path, line: int = 0, column: int = 0, hint: str = "") -> None:
        place = "".join(f":{number}" for number in (line, column) if number)
        super().__init__(f"{file}{place}: {message}", hint=hint)
        self.problem = message
        self.file = file
        self.line = line


class NoSuchImageError(ProfilesError):
    """No store has this profile, or not in this version."""


class NoSuchFileError(ProfilesError):
    """A file that the user names, or that a repository should have, does not exist."""


class FeatureError(ProfilesError):
    """A feature of a dev container that is wrong, or that cannot be had."""


class ContentError(ProfilesError):
    """Files that a build would read, and that cannot be read or are too many."""


class AmbiguousProfileError(ProfilesError):
    """The site and the user each have a profile of this name, and the name says no owner."""


class ImageExistsError(ProfilesError):
    """This version is published already; versions are never overwritten."""


class DamagedImageError(ProfilesError):
    """The image in the store differs from the published one: unreadable description, other size, other digest."""


class SignatureError(ProfilesError):
    """The image has no signature that counts here."""


class KeyFileError(ProfilesError):
    """A file has no key with which images can be signed or checked."""


class ReferenceInvalidError(ProfilesError):
    """A text is no name of an image in a registry."""


class TransferError(ProfilesError):
    """A registry, or what it sent, is at fault: unreachable, slow, damaged, or not what was expected."""


class RegistryRefusedError(TransferError):
    """A registry refused a request: a login is missing or wrong, or it does not suffice."""


class NotInRegistryError(TransferError):
    """The registry has no such image, or no such part of one."""


class OciImageError(ProfilesError):
    """A container image, or a document of one, is wrong, damaged or not for this machine."""


class LayerInvalidError(OciImageError):
    """A layer of an image is damaged or hostile. `entry` is the name of the entry, empty for the layer as a whole."""

    def __init__(self, message: str, *, entry: bytes = b"", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.entry = entry


class StoreError(ProfilesError):
    """The store's directory cannot be read or written."""


class PatternError(ProfilesError):
    """A pattern of paths that is invalid or matches nothing."""


class NothingChangedError(ProfilesError):
    """There is no change for a new image."""


class BuildError(ProfilesError):
    """A build failed in `step`; `log` is the build log that was kept, None if there was none yet."""

    def __init__(self, message: str, *, step: str, log: Path | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.log = log


class DamagedChannelsError(DamagedImageError):
    """The file with a profile's channels cannot be used, or names a version that is not there."""


class ChannelConflictError(ProfilesError):
    """Another change of the channels is under way or came first, or the channels do not allow this one."""


class RebuildRefusedError(ProfilesError):
    """A version cannot be rebuilt automatically: nothing says what from, or what users would get meanwhile."""


class UntestedImageError(ProfilesError):
    """The image has not passed a test in a session, and cannot become stable."""


class DamagedVerdictError(UntestedImageError):
    """The verdict on an image cannot be used: it is damaged, another user's, or about another image."""
