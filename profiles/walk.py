"""Walk a tree of files by descriptors: paths of any length, folders of any depth, no links followed.

A system call takes a path of at most 4,095 bytes (PATH_MAX in limits.h), and Python a thousand calls within each other.
Trees of users go beyond both. So a folder is opened in its parent folder, by its name alone, and a tree keeps only some
of its folders open. `short_path` serves the calls that want a path and no descriptor, such as lgetxattr(2).

The standard library alone: the copy of a live session runs this within a job, and the launcher's children run it with a
user's rights.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_OPEN_FOLDERS = 64
"""Folders of one tree that are open at once: a process may have 1,024 descriptors, and reads several trees together."""


class Tree:
    """A root folder, and whichever folders below it are in use. A context manager: it closes what it has opened."""

    def __init__(self, root: str | bytes | os.PathLike[str], *, most_open: int = MAX_OPEN_FOLDERS) -> None:
        """Open `root`; OSError if it is not a folder. `most_open` is at least 2."""
        self.root = Folder(self, None, b"")
        self.path = os.fsencode(root)
        """As it was given."""
        self.root_descriptor = os.open(root, FOLDER_FLAGS)
        self._most_open = most_open
        self._open: OrderedDict[Folder, int] = OrderedDict()
        """The open folders below the root; that used last comes last."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all descriptors."""
        for descriptor in (self.root_descriptor, *self._open.values()):
            os.close(descriptor)
        self._open.clear()

    def refresh(self) -> None:
        """Open each folder again at its next use, by its path.

        A listing through an old descriptor may lack new entries (btrfs).
        """
        root = os.open(b".", FOLDER_FLAGS, dir_fd=self.root_descriptor)
        self.close()
        self.root_descriptor = root

    def descriptor_of(self, folder: Folder) -> int | None:
        """Return the descriptor of `folder`, None if it is not open."""
        if folder.parent is None:
            return self.root_descriptor
        if (descriptor := self._open.get(folder)) is not None:
            self._open.move_to_end(folder)
        return descriptor

    def keep(self, folder: Folder, descriptor: int) -> None:
        """Keep the descriptor that `folder` was opened with; the one that was not used for longest may be closed."""
        self._open[folder] = descriptor
        while len(self._open) > self._most_open:
            os.close(self._open.popitem(last=False)[1])


class Folder:
    """A directory of a tree, known by its name in its parent folder."""

    __slots__ = ("name", "parent", "tree")

    def __init__(self, tree: Tree, parent: Folder | None, name: bytes) -> None:
        self.tree = tree
        self.parent = parent
        self.name = name

    def __repr__(self) -> str:
        return f"Folder({self.path!r})"

    @property
    def path(self) -> bytes:
        """The path relative to the root; empty for the root."""
        names = []
        folder = self
        while folder.parent is not None:
            names.append(folder.name)
            folder = folder.parent
        return b"/".join(reversed(names))

    def below(self, name: bytes) -> bytes:
        """Return the path of the entry `name`, relative to the root."""
        return b"/".join((self.path, name)) if self.parent is not None else name

    def folder(self, name: bytes) -> Folder:
        """Return the folder `name` in this one; nothing is opened yet."""
        return Folder(self.tree, self, name)

    def descriptor(self) -> int:
        """Open the folder if it is not open. The descriptor is valid until `most_open` others of the tree are opened.

        OSError, with the path, if one of the folders on the way is no folder any more or may not be read.
        """
        closed = []
        folder = self
        while (descriptor := self.tree.descriptor_of(folder)) is None:
            closed.append(folder)
            assert folder.parent is not None  # the root is always open
            folder = folder.parent
        for inner in reversed(closed):
            try:
                descriptor = os.open(inner.name, FOLDER_FLAGS, dir_fd=descriptor)
            except OSError as error:
                error.filename = inner.path
                raise
            self.tree.keep(inner, descriptor)
        return descriptor

    def short_path(self, name: bytes = b"") -> bytes:
        """Return a path of this folder, or of an entry of it, that is valid as long as the descriptor is."""
        at = b"/proc/self/fd/%d" % self.descriptor()
        return at + b"/" + name if name else at

    def status(self, name: bytes) -> os.stat_result | None:
        """Return the result of lstat(2) for an entry, None if there is none. OSError."""
        try:
            return os.stat(name, dir_fd=self.descriptor(), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def entries(self) -> Iterator[os.DirEntry[str]]:
        """Yield the entries in the order of the directory, in one listing of the folder at a time. OSError.

        An entry's `path` is its name only. Its `stat` works until the end of the listing, also if the tree closes
        folders.
        """
        descriptor = os.dup(self.descriptor())  # an entry's `stat` goes by the number, which may come to mean another
        try:
            with os.scandir(descriptor) as entries:
                yield from entries
        finally:
            os.close(descriptor)


class TreeEntry(NamedTuple):
    """A name in a folder, and its result of lstat(2)."""

    folder: Folder
    name: bytes
    status: os.stat_result

    @property
    def path(self) -> bytes:
        """The path relative to the root."""
        return self.folder.below(self.name)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


def walk(
    folder: Folder, *, is_steady: bool = False, unread: Callable[[Folder, OSError], None] | None = None
) -> Iterator[TreeEntry]:
    """Yield everything below `folder`: all entries of a folder in a row, and those of its folders later.

    What vanishes under way is left out, unless the tree `is_steady`. OSError for a folder that cannot be read, or, with
    `unread`, a call of that for each of them.
    """
    vanished = () if is_steady else (FileNotFoundError, NotADirectoryError)
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            for entry in current.entries():
                with contextlib.suppress(*vanished):
                    found = TreeEntry(current, os.fsencode(entry.name), entry.stat(follow_symlinks=False))
                    if found.is_folder:
                        waiting.append(current.folder(found.name))
                    yield found
        except vanished:
            continue
        except OSError as error:
            if unread is None:
                raise
            unread(current, error)
