"""The merged view of a stack of overlay layers, as overlayfs or fuse-overlayfs writes them.

A layer has marks of deletion beside its files. Which marks there are depends on the program that mounts the stack, as
each knows marks that are ordinary files to the other (table in docs/reference/storage.md):

- The kernel (overlayfs.rst, "whiteouts and opaque directories"): a whiteout is a character device 0:0, or an empty
  regular file with the attribute `user.overlay.whiteout` (Linux 6.7). `user.overlay.opaque`=`y` makes a directory
  opaque: it hides those of the same name in the layers below.
- fuse-overlayfs (its source, main.c): a whiteout is a character device 0:0, or a file `.wh.NAME` where it could not
  make one. Attributes of three names, or a file `.wh..wh..opq`, make a directory opaque.

A program in a session can write marks of the other kind as its own files, such as fuse-overlayfs in a home that the
kernel has mounted: these are content. Layers that were mounted with `userxattr`, as Berth mounts them, have neither
redirected directories nor files without content (metacopy).

The standard library alone: code that runs with the user's rights and little else imports this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from profiles.walk import MAX_OPEN_FOLDERS, Folder, Tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

WHITEOUT_PREFIX = ".wh."
OPAQUE_FILE = ".wh..wh..opq"
WHITEOUT_XATTR = "user.overlay.whiteout"
FUSE_WRITTEN = "fuse"
"""File beside the tree of a top that fuse-overlayfs has written to. It has its own marks of deletion, so it must mount
every stack with such a layer."""
MAX_OPEN_TOGETHER = 600
"""Folders of all trees that are open at once: a process may open 1,024 files."""
MIN_OPEN = 2
"""Folders of one tree that are open at once, however many trees there are."""
OTHER_OPEN_FILES = 100
"""Other files of a process, such as a folder that is being listed."""


class Marks(StrEnum):
    """The program that mounts a stack, and so decides which files in its layers are marks."""

    NONE = "none"
    """None: a plain directory, in which everything is content."""
    KERNEL = "kernel"
    FUSE = "fuse"


OPAQUE_XATTRS = {
    Marks.NONE: (),
    Marks.KERNEL: ("user.overlay.opaque",),
    Marks.FUSE: ("user.overlay.opaque", "user.fuseoverlayfs.opaque", "trusted.overlay.opaque"),
}
"""Attributes that make a directory opaque if their value is `y`. Only the system's root can read the last one."""


_OWN_XATTRS = {
    Marks.NONE: (),
    Marks.KERNEL: ("user.overlay.",),
    Marks.FUSE: ("user.overlay.", "user.fuseoverlayfs."),
}
_ESCAPED_XATTRS = "user.overlay.overlay."
"""Below it the kernel keeps what a session's programs call `user.overlay.` (overlayfs.rst, "nesting")."""


class EntryKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"
    """A named pipe, a socket, or a device."""
    WHITEOUT = "whiteout"
    """Nothing is here any more."""


class LayerEntry(NamedTuple):
    """A name in one layer's folder."""

    folder: Folder
    name: bytes
    kind: EntryKind
    layer: int
    """The place in the stack: 0 is the oldest."""
    status: os.stat_result
    """Of the entry, or of the mark."""
    marks: Marks

    @property
    def path(self) -> str:
        """The path in the view: without a leading slash; bytes that are no UTF-8 as os.fsdecode writes them."""
        return os.fsdecode(self.folder.below(self.name))


@dataclass(frozen=True)
class MergedEntry:
    """One path of the merged view."""

    found: LayerEntry
    """The entry of the newest layer that has the path: its content, mode and times."""
    depth: int
    """Number of folders that it is in."""
    opaque: bool = False
    """A directory that hides what is at this path under the stack. Set where the hiding begins, not again below it."""

    @cached_property
    def path(self) -> str:
        """As Found.path."""
        return self.found.path

    @property
    def kind(self) -> EntryKind:
        return self.found.kind

    @property
    def layer(self) -> int:
        """As Found.layer."""
        return self.found.layer

    @property
    def source(self) -> Path | None:
        """The path in the layer, None for a whiteout. The kernel may refuse such a long path."""
        return None if self.deleted else Path(os.fsdecode(self.found.folder.tree.path), self.path)

    @property
    def deleted(self) -> bool:
        """Whether this is a whiteout, which hides the path under the stack."""
        return self.kind is EntryKind.WHITEOUT


class OpenStack:
    """The open trees of a stack's layers, oldest first."""

    def __init__(self, trees: Sequence[Tree], marks: Marks, *, is_steady: bool = True) -> None:
        """Without `is_steady`, what vanishes while it is read is left out, instead of an OSError."""
        self.trees = trees
        self.marks = marks
        self.is_steady = is_steady

    @property
    def root(self) -> MergedFolder:
        layers = [(number, tree.root) for number, tree in enumerate(self.trees)]
        return MergedFolder(self, layers[::-1], hides=False)


class MergedFolder:
    """Folders of several layers that show as one."""

    def __init__(self, stack: OpenStack, folders: Sequence[tuple[int, Folder]], *, hides: bool) -> None:
        self.stack = stack
        self.folders = folders
        """With the numbers of their layers, newest first."""
        self.hides = hides
        """Whether nothing shows from under the stack."""
        self._listings: dict[int, Mapping[bytes, LayerEntry]] = {}

    def names(self, without: Collection[Tree] = ()) -> set[bytes]:
        """Read the layers, except the trees `without`. Return the names in them, deletions included."""
        for number, folder in self.folders:
            if folder.tree not in without and number not in self._listings:
                self._listings[number] = _read_folder(self.stack, number, folder)
        return {name for listing in self._listings.values() for name in listing}

    def find_all(self, name: bytes) -> Iterator[LayerEntry]:
        """Yield the entries of a name in the layers, newest first."""
        for number, folder in self.folders:
            listing = self._listings.get(number)
            found = _look_up(self.stack, number, folder, name) if listing is None else listing.get(name)
            if found is not None:
                yield found

    def find(self, name: bytes) -> LayerEntry | None:
        """Return the entry of a name in the newest layer that has one, which may be a whiteout; None if no layer has
        one.
        """
        return next(self.find_all(name), None)

    def inside(self, name: bytes) -> MergedFolder:
        """Return the folder `name`, as a merged one; without layers if no layer has it."""
        together: list[tuple[int, Folder]] = []
        hides = self.hides
        for found in self.find_all(name):
            if found.kind is not EntryKind.DIRECTORY:
                hides = True
                break
            folder = found.folder.folder(found.name)
            together.append((found.layer, folder))
            if _is_opaque(self.stack, folder):
                hides = True
                break
        return MergedFolder(self.stack, together, hides=hides)


@contextlib.contextmanager
def open_stack(layers: Sequence[str | os.PathLike[str]], marks: Marks = Marks.KERNEL) -> Iterator[OpenStack]:
    """Open the trees of a stack, oldest first. OSError for one that is no folder."""
    with open_trees(layers) as trees:
        yield OpenStack(trees, marks)


@contextlib.contextmanager
def open_trees(layers: Sequence[str | os.PathLike[str]]) -> Iterator[list[Tree]]:
    """Open trees, so that all of them together stay below a process's limit of open files.

    Hundreds of layers need a few each, so the limit is raised as far as a process may: setrlimit(2).
    """
    most_open = max(MIN_OPEN, min(MAX_OPEN_FOLDERS, MAX_OPEN_TOGETHER // max(1, len(layers)) - 1))
    _allow_open(len(layers) * (most_open + 1) + OTHER_OPEN_FILES)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Tree(layer, most_open=most_open)) for layer in layers]


def _allow_open(files: int) -> None:
    """Have this process, and those that it starts, open so many files, if its hard limit allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files:
        most = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def detect_marks(layers: Iterable[Path]) -> Marks:
    """Return the program that mounts a stack of these layers' directories, which have a `tree` each."""
    return Marks.FUSE if any((layer / FUSE_WRITTEN).exists() for layer in layers) else Marks.KERNEL


def is_overlay_attribute(name: str, marks: Marks) -> bool:
    """Whether an extended attribute is a mark of the program that mounts the layer, and no content."""
    return name.startswith(_OWN_XATTRS[marks]) and not name.startswith(_ESCAPED_XATTRS)


def walk_merged(stack: OpenStack, *, longest: int | None = None) -> Iterator[MergedEntry]:
    """Yield the entries that a stack shows, without those below the stack.

    A directory comes before its entries, names in the order of their bytes; the root itself is left out. Whiteouts
    appear only where something under the stack could show: not in opaque directories. There may be nothing to hide,
    since overlayfs also makes whiteouts for entries of older layers. A directory over a file or a whiteout of an older
    layer is opaque, with or without a mark. The content of a directory whose path has more than `longest` bytes is left
    out. Raises OSError for what cannot be read.
    """
    under_way = [_walk_folder(stack.root, 0, longest)]
    while under_way:  # a tree may be deeper than Python calls
        step = next(under_way[-1], None)
        if step is None:
            under_way.pop()
            continue
        entry, inside = step
        yield entry
        if inside is not None:
            under_way.append(_walk_folder(inside, len(under_way), longest))


def _walk_folder(
    folder: MergedFolder, depth: int, longest: int | None
) -> Iterator[tuple[MergedEntry, MergedFolder | None]]:
    """Yield the entries of a merged folder, each with the merged folder of a directory to enter."""
    for name in sorted(folder.names()):
        found = folder.find(name)
        assert found is not None  # one of the listings has the name
        if found.kind is EntryKind.DIRECTORY:
            inside = folder.inside(name)
            is_entered = longest is None or len(found.folder.below(name)) <= longest
            yield MergedEntry(found, depth, opaque=inside.hides and not folder.hides), inside if is_entered else None
        elif found.kind is not EntryKind.WHITEOUT or not folder.hides:
            yield MergedEntry(found, depth), None


def _ignore_vanished(stack: OpenStack) -> contextlib.suppress:
    """Ignore entries that vanish, if the stack is not steady."""
    return contextlib.suppress(*(() if stack.is_steady else (FileNotFoundError, NotADirectoryError)))


def _read_folder(stack: OpenStack, layer: int, folder: Folder) -> Mapping[bytes, LayerEntry]:
    """Read one layer's folder, its marks translated."""
    listing: dict[bytes, LayerEntry] = {}
    gone: dict[bytes, LayerEntry] = {}
    prefix = os.fsencode(WHITEOUT_PREFIX)
    with _ignore_vanished(stack):
        for entry in folder.entries():
            name = os.fsencode(entry.name)
            if stack.marks is Marks.FUSE and entry.name == OPAQUE_FILE:
                continue
            with _ignore_vanished(stack):
                status = entry.stat(follow_symlinks=False)
                if stack.marks is Marks.FUSE and name.startswith(prefix):
                    whiteout = name.removeprefix(prefix)
                    gone[whiteout] = LayerEntry(folder, whiteout, EntryKind.WHITEOUT, layer, status, stack.marks)
                else:
                    kind = _entry_kind(stack.marks, folder, name, status)
                    listing[name] = LayerEntry(folder, name, kind, layer, status, stack.marks)
    return gone | listing  # what is there although it was whited out was made afterwards


def _look_up(stack: OpenStack, layer: int, folder: Folder, name: bytes) -> LayerEntry | None:
    """Return one layer's entry of a name in its folder."""
    with _ignore_vanished(stack):
        if (status := folder.status(name)) is not None:
            return LayerEntry(folder, name, _entry_kind(stack.marks, folder, name, status), layer, status, stack.marks)
        mark = os.fsencode(WHITEOUT_PREFIX) + name
        if stack.marks is Marks.FUSE and (status := _short_status(folder, mark)) is not None:
            return LayerEntry(folder, name, EntryKind.WHITEOUT, layer, status, stack.marks)
    return None


def _short_status(folder: Folder, name: bytes) -> os.stat_result | None:
    """As Folder.status; a name that is too long for a file system is not there."""
    try:
        return folder.status(name)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return None


def _entry_kind(marks: Marks, folder: Folder, name: bytes, status: os.stat_result) -> EntryKind:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        is_whiteout = marks is Marks.KERNEL and not status.st_size and _has_attribute(folder, name, WHITEOUT_XATTR)
        return EntryKind.WHITEOUT if is_whiteout else EntryKind.FILE
    if stat.S_ISDIR(mode):
        return EntryKind.DIRECTORY
    if stat.S_ISLNK(mode):
        return EntryKind.SYMLINK
    is_device = marks is not Marks.NONE and stat.S_ISCHR(mode) and status.st_rdev == 0
    return EntryKind.WHITEOUT if is_device else EntryKind.OTHER


def _has_attribute(folder: Folder, name: bytes, attribute: str) -> bool:
    try:
        return _read_attribute(folder.short_path(name), attribute) is not None
    except PermissionError:  # a file that its owner may not read: no program leaves a mark so
        return False


def _is_opaque(stack: OpenStack, folder: Folder) -> bool:
    """Whether a layer's folder hides those of the layers below it."""
    with _ignore_vanished(stack):
        descriptor = folder.descriptor()
        if any(_read_attribute(descriptor, name) == b"y" for name in OPAQUE_XATTRS[stack.marks]):
            return True
        return stack.marks is Marks.FUSE and folder.status(os.fsencode(OPAQUE_FILE)) is not None
    return False


def _read_attribute(place: int | bytes, name: str) -> bytes | None:
    """Return an attribute of an open folder, or of a file; None if it has none."""
    try:
        return os.getxattr(place, name) if isinstance(place, int) else os.getxattr(place, name, follow_symlinks=False)
    except OSError as error:
        if error.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
            raise
        return None
