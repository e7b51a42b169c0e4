"""Unpack a feature that another person has published: files and folders below one folder, and nothing else."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from profiles.errors import FeatureError

if TYPE_CHECKING:
    from pathlib import Path

MAX_FEATURE_BYTES = 256 << 20
MAX_FEATURE_FILES = 5000


def unpack_feature(archive: Path, into: Path, name: str) -> None:
    """Unpack into the new folder `into`. Raises FeatureError, which names the feature and the entry.

    Links, devices, absolute paths, `..`, entries that are there twice, and too many files or bytes are refused. Owners
    and set-user-id bits do not count.
    """
    into.mkdir(mode=0o700)
    left = MAX_FEATURE_BYTES
    try:
        with tarfile.open(archive, "r:*") as tar:
            for number, entry in enumerate(tar):
                place = into / _inside(entry, name)
                left -= entry.size
                if number >= MAX_FEATURE_FILES or left < 0:
                    raise FeatureError(
                        f"the feature {name} has more than {MAX_FEATURE_FILES} files or {MAX_FEATURE_BYTES >> 20} MiB"
                    )
                if entry.isdir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(entry)
                assert content is not None  # it is a regular file
                with place.open("xb") as file:
                    shutil.copyfileobj(content, file)
                place.chmod(0o755 if entry.mode & 0o111 else 0o644)
    except (tarfile.TarError, EOFError, OSError, UnicodeError, ValueError) as error:
        raise FeatureError(f"the archive of the feature {name} cannot be unpacked: {error}") from error


def _inside(entry: tarfile.TarInfo, name: str) -> PurePosixPath:
    path = PurePosixPath(entry.name)
    if not (entry.isreg() or entry.isdir()):
        raise FeatureError(f"the feature {name} has an entry that is neither file nor folder: {entry.name[:200]!r}")
    if path.is_absolute() or ".." in path.parts or "\0" in entry.name or len(path.parts) > 32:
        raise FeatureError(f"the feature {name} has an entry outside of it: {entry.name[:200]!r}")
    return path
