"""What a stack of overlay layers shows: the upper directories of overlayfs or fuse-overlayfs, one over the other.

A layer says of the paths it has what they are now, and of paths that are gone that they are: by a character device 0:0
(whiteout), or a file `.wh.NAME` where fuse-overlayfs could not make one. A directory hides that of the same name in
the layers below it if it carries an extended attribute (opaque) or a file `.wh..wh..opq`. The kernel's documentation
(overlayfs.rst, "whiteouts and opaque directories") and fuse-overlayfs's source have these. Layers that were mounted
with `userxattr`, as Berth mounts them, have neither redirected directories nor files without content (metacopy).

The standard library alone: code that runs with the user's rights and little else imports this.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WHITEOUT_PREFIX = ".wh."
OPAQUE_FILE = ".wh..wh..opq"
FUSE_WRITTEN = "fuse"
"""Beside the tree of a top that fuse-overlayfs has written to: it marks deletions in ways of its own, so a stack with
such a layer is mounted by it ever after."""
OPAQUE_XATTRS = ("user.overlay.opaque", "user.fuseoverlayfs.opaque")
"""Their value is `y`: the kernel's attribute with `userxattr`, and fuse-overlayfs's own."""


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"
    """A named pipe, a socket, or a device."""
    WHITEOUT = "whiteout"
    """Nothing is here any more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of the merged view."""

    path: str
    """Relative, without a leading slash; bytes that are no UTF-8 as os.fsdecode writes them."""
    source: Path | None
    """Where its content, mode and times are: in the newest layer that has it. None for a whiteout."""
    kind: Kind
    layer: int
    """The place in the stack of the layer that decided: 0 is the oldest."""
    opaque: bool = False
    """A directory that hides what is at this path under the stack. Set where the hiding begins, not again below it."""

    @property
    def deleted(self) -> bool:
        """Whether this is a whiteout: what is at this path under the stack, if anything, is not to be seen."""
        return self.kind is Kind.WHITEOUT


@dataclass(frozen=True, slots=True)
class _Found:
    """A name in one layer's directory."""

    path: Path
    layer: int
    kind: Kind
    by_fuse: bool
    """Whether its layer's marks may be files."""


_Step = tuple[Entry, "Iterator[_Step] | None"]
"""An entry and, for a directory, what is in it."""


def merged(layers: Sequence[str | os.PathLike[str]], *, whiteout_files: bool = True) -> Iterator[Entry]:
    """Yield what the stack `layers` shows, oldest first, over something that is not looked at.

    With `whiteout_files`, for layers that fuse-overlayfs has written, files named `.wh.…` are marks of deletion; to
    the kernel they are files like others.

    A directory comes before what is in it, names in the order of their bytes; the root itself is left out. Whiteouts
    are told only where something under the stack could show: not in opaque directories. It may be that nothing is
    there, as overlayfs also whites out what an older layer had. A directory over a file or a whiteout of an older
    layer is opaque, whether or not it is marked. Raises OSError for what cannot be read.
    """
    roots = [_Found(Path(layer), number, Kind.DIRECTORY, whiteout_files) for number, layer in enumerate(layers)]
    under_way = [_names("", roots[::-1], hidden=False)]
    while under_way:  # a tree may be deeper than Python calls
        step = next(under_way[-1], None)
        if step is None:
            under_way.pop()
            continue
        entry, inside = step
        yield entry
        if inside is not None:
            under_way.append(inside)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether lstat(2) tells of the kernel's whiteout."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: str | os.PathLike[str], *, whiteout_files: bool = True) -> bool:
    """Whether a layer's directory hides those of the layers below it. Raises OSError."""
    return _marked(directory) or (whiteout_files and os.path.lexists(Path(directory, OPAQUE_FILE)))


def _names(path: str, directories: Sequence[_Found], *, hidden: bool) -> Iterator[_Step]:
    """Yield what one merged directory holds; `directories` newest first, `hidden` if nothing shows from under them."""
    listings = [_listing(directory) for directory in directories]
    for name in sorted({name for listing in listings for name in listing}, key=os.fsencode):
        found = [listing[name] for listing in listings if name in listing]
        first = found[0]
        inner = f"{path}/{name}" if path else name
        if first.kind is Kind.WHITEOUT:
            if not hidden:
                yield Entry(inner, None, Kind.WHITEOUT, first.layer), None
        elif first.kind is Kind.DIRECTORY:
            together, alone = _merging(found)
            entry = Entry(inner, first.path, Kind.DIRECTORY, first.layer, opaque=alone and not hidden)
            yield entry, _names(inner, together, hidden=hidden or alone)
        else:
            yield Entry(inner, first.path, first.kind, first.layer), None


def _merging(found: Sequence[_Found]) -> tuple[list[_Found], bool]:
    """Take, newest first, the directories that show as one; tell whether they hide what is under the stack."""
    together: list[_Found] = []
    for each in found:
        if each.kind is not Kind.DIRECTORY:
            return together, True
        together.append(each)
        if is_opaque(each.path, whiteout_files=each.by_fuse):
            return together, True
    return together, False


def _listing(directory: _Found) -> dict[str, _Found]:
    """Read one layer's directory, its marks translated."""
    listing: dict[str, _Found] = {}
    gone = set[str]()
    with os.scandir(directory.path) as entries:
        for entry in entries:
            if directory.by_fuse and entry.name == OPAQUE_FILE:
                continue
            if directory.by_fuse and entry.name.startswith(WHITEOUT_PREFIX):
                gone.add(entry.name.removeprefix(WHITEOUT_PREFIX))
            else:
                listing[entry.name] = replace(directory, path=directory.path / entry.name, kind=_kind(entry))
    # What is there although it was whited out was made afterwards.
    return listing | {
        name: replace(directory, path=directory.path / name, kind=Kind.WHITEOUT) for name in gone - listing.keys()
    }


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_symlink():
        return Kind.SYMLINK
    if entry.is_dir(follow_symlinks=False):
        return Kind.DIRECTORY
    if entry.is_file(follow_symlinks=False):
        return Kind.FILE
    return Kind.WHITEOUT if is_whiteout(entry.stat(follow_symlinks=False)) else Kind.OTHER


def _marked(directory: str | os.PathLike[str]) -> bool:
    for name in OPAQUE_XATTRS:
        try:
            if os.getxattr(directory, name, follow_symlinks=False) == b"y":
                return True
        except OSError as error:
            if error.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
                raise
    return False
