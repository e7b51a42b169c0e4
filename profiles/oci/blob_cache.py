"""A private cache of blobs from registries, by their digests.

Blobs are checked when they enter, and again when they are used: the folder may lie on a disk that damages files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import OciImageError
from profiles.userfile import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.oci.descriptor import Descriptor
    from profiles.oci.image_source import BlobSource

MAX_CACHE_BYTES = 10 * 2**30
"""Bytes that blobs may keep after a build; the ones that were not used for longest go first."""
_LOCK = "lock"


def user_cache_folder() -> Path:
    """Return the folder of this user's cache: berth/blobs in $XDG_CACHE_HOME, else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "berth" / "blobs"


class BlobCache:
    """The blobs in `folder`, which is made, and belongs to this user alone. Raises OciImageError, OSError."""

    def __init__(self, folder: Path, limit_bytes: int = MAX_CACHE_BYTES) -> None:
        self._folder = folder
        self._limit = limit_bytes

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep all blobs for the time of the block; at its end remove those above the limit that no build uses."""
        self._make_private()
        with (self._folder / _LOCK).open("a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield
            with contextlib.suppress(BlockingIOError):  # another build uses the cache, and will do it
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._trim()

    def fetch(self, source: BlobSource, descriptor: Descriptor) -> Path:
        """Return the file with a blob, from `source` if it is not here. Use it within `in_use` only."""
        place = self._folder / descriptor.digest.replace(":", "-")
        if self._is_whole(place, descriptor):
            os.utime(place)
            return place
        with tempfile.TemporaryDirectory(prefix=".", dir=self._folder) as private:
            arriving = Path(private) / "blob"
            source.fetch_blob(descriptor, arriving)
            if not self._is_whole(arriving, descriptor):
                raise OciImageError(f"the blob {descriptor.digest[:19]} arrived with another content", hint="try again")
            arriving.chmod(0o600)
            arriving.replace(place)
        return place

    def _is_whole(self, place: Path, descriptor: Descriptor) -> bool:
        """Whether the file is there, this user's own, and has the content that its name says."""
        try:
            with open_regular(place) as file:
                if os.fstat(file.fileno()).st_size != descriptor.size:
                    return False
                return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == descriptor.digest
        except OSError:
            return False

    def _make_private(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise OciImageError(
                f"the cache {self._folder} must be a folder of your own",
                hint="set XDG_CACHE_HOME to a folder of your own on a local disk",
            )
        self._folder.chmod(0o700)

    def _trim(self) -> None:
        blobs = []
        for path in self._folder.glob("sha256-*"):
            with contextlib.suppress(FileNotFoundError):
                blobs.append((path.lstat(), path))
        total = sum(status.st_size for status, _ in blobs)
        for status, path in sorted(blobs, key=lambda blob: blob[0].st_mtime):
            if total <= self._limit:
                break
            path.unlink(missing_ok=True)
            total -= status.st_size
