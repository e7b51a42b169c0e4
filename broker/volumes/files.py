"""Replace, sync and lock files on the shared file system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from broker.names import new_id
from broker.volumes.errors import VolumeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

LOCK_RETRY_S = 0.2
"""Time between two attempts to take a lock. Each attempt is a request to the file server."""


def replace_file(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replace a file by rename, so that a reader sees the old or the new one whole, also after a crash."""
    replace_files({path: content})


def replace_files(contents: Mapping[Path, bytes | Iterable[bytes]]) -> None:
    """Replace each file as `replace_file` does, in their order. OSError: unless a rename failed, none was replaced.

    All are written before one is synced: on a local disk the first sync then writes them all.
    """
    staged: list[tuple[Path, Path, BinaryIO]] = []
    try:
        with contextlib.ExitStack() as opened:
            for path, content in contents.items():
                fresh = path.with_name(f".{path.name}.{new_id()}")
                fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                file = opened.enter_context(os.fdopen(fd, "wb"))
                staged.append((fresh, path, file))
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
            for _, _, written in staged:
                os.fsync(written.fileno())
        for fresh, path, _ in staged:
            fresh.rename(path)
    except OSError:
        for fresh, _, _ in staged:
            fresh.unlink(missing_ok=True)
        raise


def sync_path(path: Path) -> None:
    """Have a file on disk or, of a directory, what was last renamed or made in it. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def file_lock(
    path: Path, *, shared: bool = False, wait: bool | float = True, whose: str = "another operation"
) -> Iterator[None]:
    """Hold flock(2) on a file, made if it is missing.

    `wait`: false for no wait, true for an unlimited one, or a number of seconds. VolumeError `busy` if another holds
    the lock at the end of the wait.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        if wait is True:
            fcntl.flock(lock, kind)
        else:
            _lock_within(lock, kind, float(wait), f"{whose} has {path.parent.name} open")
        yield
    finally:
        os.close(lock)


def _lock_within(lock: int, kind: int, seconds: float, message: str) -> None:
    """Take a lock within `seconds`, for which flock(2) has no option. VolumeError `busy` with this message."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise VolumeError("busy", message) from None
            time.sleep(LOCK_RETRY_S)
        else:
            return
