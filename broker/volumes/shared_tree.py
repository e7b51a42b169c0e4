"""Walk through what a snapshot's volume shows, without what share_filter.py leaves out.

The layers of the stack are merged first: what a later layer has deleted or replaced is never read. The standard library
alone.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from broker.volumes.copied_folders import READ_FLAGS
from broker.volumes.share_filter import SPECIAL_FILE, file_left_out, folder_left_out
from profiles.commit.secrets import HEAD_BYTES
from profiles.image.overlayfs import EntryKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from profiles.image.overlayfs import LayerEntry, MergedFolder, OpenStack


class SharedStep(NamedTuple):
    """One step of the walk."""

    found: LayerEntry | None
    """The entry; None at the end of a folder."""
    is_opaque: bool = False
    """A folder of the system that hides the image's folder."""
    file: OpenedSource | None = None
    """A regular file, open until the next step; None in a walk that reads no file."""


class OpenedSource:
    """A regular file that is open for reading."""

    def __init__(self, found: LayerEntry) -> None:
        """OSError, also if it is no regular file any more."""
        self.descriptor = os.open(found.name, READ_FLAGS, dir_fd=found.folder.descriptor())
        self.status = os.fstat(self.descriptor)
        self._head: bytes | None = None
        if not stat.S_ISREG(self.status.st_mode):
            self.close()
            raise OSError(f"{found.path} was replaced")

    def head(self) -> bytes:
        """Return the first HEAD_BYTES."""
        if self._head is None:
            self._head = os.pread(self.descriptor, min(HEAD_BYTES, self.status.st_size), 0)
        return self._head

    @property
    def whole(self) -> bytes | None:
        """The content, if `head` has read all of it."""
        return self._head if self._head is not None and len(self._head) == self.status.st_size else None

    def close(self) -> None:
        os.close(self.descriptor)


def walk_shared(
    stack: OpenStack, volume: str, left_out: Callable[[str, str], None], *, reads: bool = True
) -> Iterator[SharedStep]:
    """Yield the entries that are shared, each folder before its entries, and a step without an entry at its end.

    `left_out` gets the path of each entry that is left out, and the reason.

    Deletions are yielded for the system only: nothing is below a home. Without `reads`, no file is opened, and paths
    alone decide. OSError.
    """
    is_system = volume == "system"
    waiting = [_Walk(stack.root)]
    while waiting:
        found = waiting[-1].next_entry()
        if found is None:
            waiting.pop()
            if waiting:
                yield SharedStep(None)
        elif found.kind is EntryKind.DIRECTORY:
            folder = waiting[-1].folder
            inside = folder.inside(found.name)
            if reason := folder_left_out(volume, found.path):
                left_out(f"{found.path}/", reason)
            else:
                yield SharedStep(found, is_system and inside.hides and not folder.hides)
                waiting.append(_Walk(inside))
        elif found.kind is EntryKind.WHITEOUT:
            if is_system and not waiting[-1].folder.hides:
                yield SharedStep(found)
        elif found.kind is EntryKind.FILE:
            yield from _walk_file(found, volume, left_out, reads=reads)
        else:
            is_link = found.kind is EntryKind.SYMLINK
            if reason := file_left_out(volume, found.path, None) if is_link else SPECIAL_FILE:
                left_out(found.path, reason)
            else:
                yield SharedStep(found)


class _Walk:
    """The entries of a merged folder that are still to come."""

    def __init__(self, folder: MergedFolder) -> None:
        self.folder = folder
        self._names = iter(sorted(folder.names()))

    def next_entry(self) -> LayerEntry | None:
        name = next(self._names, None)
        return None if name is None else self.folder.find(name)


def _walk_file(
    found: LayerEntry, volume: str, left_out: Callable[[str, str], None], *, reads: bool
) -> Iterator[SharedStep]:
    if not reads:
        if not file_left_out(volume, found.path, None):
            yield SharedStep(found)
        return
    file = OpenedSource(found)
    try:
        if reason := file_left_out(volume, found.path, file.head):
            left_out(found.path, reason)
        else:
            yield SharedStep(found, file=file)
    finally:
        file.close()
