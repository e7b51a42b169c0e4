"""The folder of one build, on a local disk, private, and gone afterwards whatever happens.

A build that is killed cannot clean up; the next one of the same user finds its folder unlocked and removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from profiles import namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "berth-build-"
LOCK = "lock"


def default_parent() -> Path:
    """Tell where builds work: $TMPDIR, else /var/tmp, the place for large temporary files (hier(7))."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - the folder made in it is private


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """Make an empty folder below `parent`, mode 0700, for the time of the block. Raises OSError."""
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with (folder / LOCK).open("w+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        namespace.remove(folder)


def free_bytes(folder: Path) -> int:
    """Tell how much room there is for this user."""
    return shutil.disk_usage(folder).free


def _sweep(parent: Path) -> None:
    """Remove the folders that killed builds of this user left."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                namespace.remove(folder)
