"""The contents of SIF files, compared with their digests once and after each change."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from profiles.image.store import verify_image

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.image.store import Image

_State = tuple[int, int, int, int, int]


class CheckedContents:
    """Remembers the SIF files that had their digests. A file is read again if the kernel says that it was changed.

    An ordinary user can set the time of the last modification, but not that of the last change of the inode. Threads
    may share one; only one of them reads a file at a time.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[str, _State]] = {}
        self._reading = threading.Lock()

    def require(self, image: Image) -> None:
        """Raise DamagedImageError unless the SIF file has its digest, and OSError if it cannot be read."""
        state = _state(image.path)
        if self._known.get(image.path) == (image.digest, state):
            return
        with self._reading:
            if self._known.get(image.path) == (image.digest, state):
                return
            verify_image(image)
            self._known[image.path] = (image.digest, state)


def _state(path: Path) -> _State:
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
