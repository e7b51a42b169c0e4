"""The bounded reader of a user's own store of images, `<storage.root>/profiles`.

Its owner controls everything in it, and may replace any part at any moment. So each directory must be the reader's
own and no link, no other user may write to it, and files are read as in profiles.userfile. This module runs as that
user: in the launcher's child process, and in the command line. Everything here raises UnfitFileError for what must not
be read, OSError for what cannot, and ProfilesError for a SIF file without a squashfs.

The standard library alone: the launcher's children import this.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from profiles.errors import ProfilesError
from profiles.image.sif import squashfs_offset
from profiles.image.signature_file import UNSIGNED, SignatureFile, read_signature_file
from profiles.recipe.versions import distinct_version_key
from profiles.userfile import UnfitFileError, open_regular, read_text

if TYPE_CHECKING:
    from pathlib import Path

OWN_STORE = "profiles"
"""The directory of a user's own store, below that user's storage."""
IMAGE = "image.sif"
DESCRIPTION = "image.json"
PACKAGES = "packages.txt"
MAX_ENTRIES = 1000
"""Entries of a directory that may be there: profiles of a store, versions of a profile."""
MAX_OWN_DESCRIPTION_BYTES = 4 * 2**20
"""Limit for image.json: as JSON in an answer of the launcher it is at most six times as long (server.ANSWER_LIMIT)."""
MAX_PACKAGES_BYTES = 2 * 2**20
"""Limit for packages.txt: 50,000 packages. A request to the launcher holds it (server.LINE_LIMIT)."""
SQUASHFS_MAGIC = b"hsqs"
"""The first bytes of a squashfs (fs/squashfs/squashfs_fs.h of Linux)."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,38}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}")


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The parts of a version in a user's own store."""

    description: str
    """The text of image.json, not checked."""
    size: int
    """Bytes of the SIF file."""
    offset: int
    """Byte of the SIF file at which its squashfs begins."""
    signature: SignatureFile = UNSIGNED


def profile_names(store: Path) -> list[str]:
    """List what may be a profile in the store, sorted; nothing if there is no store."""
    return _names(store, _NAME)


def image_versions(store: Path, name: str) -> list[str]:
    """List what may be a version of a profile, oldest first; nothing if there is no such profile."""
    if not _NAME.fullmatch(name) or not _is_private(store):
        return []
    return sorted(_names(store / name, _VERSION), key=distinct_version_key)


def read_stored_image(store: Path, name: str, version: str) -> StoredImage:
    """Read what a session needs to know of a version. FileNotFoundError if a part of it is missing."""
    for directory in (store, store / name, store / name / version):
        require_own_directory(directory)
    sif = store / name / version / IMAGE
    description = read_text(sif.with_name(DESCRIPTION), MAX_OWN_DESCRIPTION_BYTES)
    offset = squashfs_offset(sif, own=True)
    with open_regular(sif) as file:
        if offset < os.fstat(file.fileno()).st_size:
            file.seek(offset)
        if file.read(len(SQUASHFS_MAGIC)) != SQUASHFS_MAGIC:
            raise ProfilesError(f"{sif} has no squashfs root file system")
        size = os.fstat(file.fileno()).st_size
    return StoredImage(description, size, offset, read_signature_file(sif.parent, own=True))


def read_stored_packages(store: Path, name: str, version: str) -> str:
    """Return the list of an image's packages; empty if the version has none that can be read."""
    try:
        return read_text(store / name / version / PACKAGES, MAX_PACKAGES_BYTES)
    except OSError:
        return ""


def require_own_directory(directory: Path) -> None:
    """Raise UnfitFileError unless the directory is the reader's own, no link, and closed to changes by other users."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no directory"
        raise UnfitFileError(directory, f"is {kind}, and must be a directory")
    if status.st_uid != os.geteuid():
        raise UnfitFileError(directory, "belongs to another user")
    if status.st_mode & 0o022:
        raise UnfitFileError(directory, f"can be changed by other users: run `chmod go-w {directory}`")


def _is_private(directory: Path) -> bool:
    """Whether the directory exists; raises UnfitFileError for one that must not be read."""
    try:
        require_own_directory(directory)
    except FileNotFoundError:
        return False
    return True


def _names(directory: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return the names of that form in a directory, without regular files such as the log of a failed build."""
    if not _is_private(directory):
        return []
    with os.scandir(directory) as entries:
        found = list(islice(entries, MAX_ENTRIES + 1))
    if len(found) > MAX_ENTRIES:
        raise UnfitFileError(directory, f"has more than {MAX_ENTRIES} entries, the most that Berth reads")
    return sorted(
        entry.name for entry in found if pattern.fullmatch(entry.name) and not entry.is_file(follow_symlinks=False)
    )
