"""A digest of the files that a build reads, so that a change of another file builds nothing."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import ContentError
from profiles.userfile import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_CONTENT_FILES = 200_000
MAX_CONTENT_BYTES = 8 << 30
_PIECE_BYTES = 1 << 20


def content_digest(root: Path, is_read: Callable[[str], bool] = lambda _: True) -> str:
    """Return `sha256:…` of the names, modes and bytes of the files below `root`, in their order.

    `is_read` says of a path relative to `root` whether the build reads it. Times, owners and empty directories do not
    count, and links count by where they point to. Raises ContentError for too many files or bytes, and for a file that
    cannot be read or is no file.
    """
    whole = hashlib.sha256()
    count = size = 0
    for path in _paths(root):
        name = str(path.relative_to(root))
        if not is_read(name):
            continue
        mode = path.lstat().st_mode
        count += 1
        link = str(path.readlink()) if stat.S_ISLNK(mode) else ""
        whole.update(
            f"{len(os.fsencode(name))} ".encode()
            + os.fsencode(name)
            + f" {mode:o} {link}\0".encode("utf-8", "surrogateescape")
        )
        if not link:
            digest, length = _file_digest(path)
            whole.update(digest)
            size += length
        if count > MAX_CONTENT_FILES or size > MAX_CONTENT_BYTES:
            raise ContentError(
                f"{root} has more than {MAX_CONTENT_FILES} files, or more than {MAX_CONTENT_BYTES >> 30} GiB",
                hint="list what the build does not read in .dockerignore",
            )
    return f"sha256:{whole.hexdigest()}"


def _paths(root: Path) -> Iterator[Path]:
    """Yield all that is below `root` and no directory, in the order of the names."""

    def fail(error: OSError) -> None:
        raise ContentError(f"{error.filename} cannot be read: {error.strerror}") from error

    for folder, names, files in os.walk(root, onerror=fail):
        names.sort()
        links = [name for name in names if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted([*files, *links]))


def _file_digest(path: Path) -> tuple[bytes, int]:
    digest = hashlib.sha256()
    length = 0
    try:
        with open_regular(path, own=False) as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                length += len(piece)
    except OSError as error:
        raise ContentError(f"{path} cannot be read: {error.strerror}") from error
    return digest.digest(), length
