"""Remove a tree of any depth, even while its owner renames things in it.

A folder is opened in its parent folder, by its name, and no link is followed. So nothing is removed but what was found
in the tree. The standard library alone: the launcher's children run this with a user's rights.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from profiles.walk import FOLDER_FLAGS, Folder, Tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_OPEN_FOLDERS = 512
"""Folders that are open at once. The way back from a deep folder opens all above it again, once for so many."""
OWNER_ACCESS = 0o700


def remove_tree(path: Path, *, count: Callable[[int], object] = lambda _: None) -> None:
    """Remove the entry at `path` with everything below it. Repeating the call is safe. `count` gets the number of
    removed files, some at a time.

    Folders need not be accessible: overlayfs leaves some with mode 000, and users make some. If something cannot be
    removed, everything else is, and then OSError names the first such entry.
    """
    with contextlib.suppress(FileNotFoundError), Tree(path.parent, most_open=MAX_OPEN_FOLDERS) as tree:
        removal = _Removal(path.parent, count)
        removal.remove(tree.root, os.fsencode(path.name))
        if removal.failure is not None:
            raise removal.failure


class _Removal:
    """A removal under way."""

    def __init__(self, root: Path, count: Callable[[int], object]) -> None:
        self._root = os.fsencode(root)
        self._count = count
        self.failure: OSError | None = None
        """The first one."""

    def remove(self, parent: Folder, name: bytes) -> None:
        """Remove an entry of `parent` with all that lies below it."""
        status = parent.status(name)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            self._unlink(parent, name)
            return
        waiting = [(parent.folder(name), False)]
        while waiting:
            folder, is_emptied = waiting.pop()
            if is_emptied:
                self._remove_folder(folder)
            else:
                waiting.append((folder, True))
                waiting += [(folder.folder(inner), False) for inner in self._empty(folder)]

    def _empty(self, folder: Folder) -> list[bytes]:
        """Remove all of a folder but the folders in it; their names."""
        folders = []
        try:
            _grant_access(folder)
            entries = list(folder.entries())  # first, since a listing may leave out names while others are removed
        except OSError as error:
            self._note(error, folder.path)
            return []
        for entry in entries:
            name = os.fsencode(entry.name)
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
            except OSError as error:
                self._note(error, folder.below(name))
                continue
            if is_folder:
                folders.append(name)
            else:
                self._unlink(folder, name)
        self._count(len(entries) - len(folders))
        return folders

    def _unlink(self, folder: Folder, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=folder.descriptor())
        except OSError as error:
            self._note(error, folder.below(name))

    def _remove_folder(self, folder: Folder) -> None:
        assert folder.parent is not None
        try:
            os.rmdir(folder.name, dir_fd=folder.parent.descriptor())
        except OSError as error:
            self._note(error, folder.path)

    def _note(self, error: OSError, path: bytes) -> None:
        if self.failure is None and not isinstance(error, FileNotFoundError):
            self.failure = OSError(error.errno, error.strerror, os.fsdecode(self._root + b"/" + path))


def _grant_access(folder: Folder) -> None:
    """Make a folder accessible to its owner, who this process runs as. OSError if it is none or cannot be entered."""
    try:
        descriptor = folder.descriptor()
    except PermissionError:
        assert folder.parent is not None
        held = os.open(folder.name, os.O_PATH | FOLDER_FLAGS, dir_fd=folder.parent.descriptor())
        try:
            os.chmod(f"/proc/self/fd/{held}", OWNER_ACCESS)  # noqa: PTH101 - which is that folder whatever its name
        finally:
            os.close(held)
        descriptor = folder.descriptor()
    if os.fstat(descriptor).st_mode & OWNER_ACCESS != OWNER_ACCESS:
        with contextlib.suppress(PermissionError):  # of another owner's, in which one may write all the same
            os.fchmod(descriptor, OWNER_ACCESS)
