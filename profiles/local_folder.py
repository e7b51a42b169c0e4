"""Private folders on a local disk. Each is removed after its use, also after an error.

A process that is killed cannot clean up. The next process of the same user that makes such a folder finds the old one
unlocked, and removes it. The standard library alone: the launcher's children run this with a user's rights.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from profiles.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIX = "berth-local-"
LOCK_NAME = "lock"
"""A file in the folder, held with flock(2) by who uses the folder."""


@contextlib.contextmanager
def local_folder(
    parent: Path | None = None, prefix: str = PREFIX, remove: Callable[[Path], None] = remove_tree
) -> Iterator[Path]:
    """Make a folder below `parent`, mode 0700, for the time of the block. It has LOCK_NAME only. Raises OSError.

    `parent`: by default where temporary files go. `remove` removes a folder with all that is in it.
    """
    place = parent or Path(tempfile.gettempdir())
    _sweep(place, prefix, remove)
    folder, lock = _make(place, prefix)
    try:
        with lock:
            yield folder
    finally:
        remove(folder)


def _make(parent: Path, prefix: str) -> tuple[Path, IO[bytes]]:
    """Make a folder and lock it; again if another process has taken it for abandoned before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            return folder, _lock(folder)


def _lock(folder: Path) -> IO[bytes]:
    """Lock a folder. FileNotFoundError if it is gone, BlockingIOError if it is in use."""
    lock = (folder / LOCK_NAME).open("a+b")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not (folder / LOCK_NAME).samefile(f"/proc/self/fd/{lock.fileno()}"):
            raise FileNotFoundError(folder)
    except BaseException:
        lock.close()
        raise
    return lock


def _sweep(parent: Path, prefix: str, remove: Callable[[Path], None]) -> None:
    """Remove the folders that killed processes of this user left."""
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid == os.getuid() and stat.S_ISDIR(status.st_mode):
                with _lock(folder):
                    remove(folder)
