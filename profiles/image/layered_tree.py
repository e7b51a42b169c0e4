"""The merged view of an image's tree and a session's layers: contents, owners and permissions."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.image.overlayfs import EntryKind, MergedEntry, detect_marks, open_stack, walk_merged
from profiles.userfile import read_records, read_text
from profiles.walk import Tree, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

TREE, OWNERS = "tree", "owners"
"""In a layer's directory: what it holds, and the owners of it that were not its maker."""
KEPT = "kept"
"""Beside a layer that was packed: records of what squashfs cannot hold, such as folders whose paths are too long."""
MAX_KEPT_BYTES = 2**30
MAX_KEPT_RECORD_BYTES = 2**20
"""Limits for this file and for one of its records."""

MAX_OWNERS_BYTES = 2**30
"""Limit for that list: some ten million files."""
MAX_OWNER_RECORD_BYTES = 2**22
"""Bytes of one of its records, which has a path: there are longer ones than system calls take."""
MAX_TEXT_BYTES = 64 * 2**20
"""Limit for a file that is read whole, such as dpkg's list of packages: 20,000 packages take 25 MB."""
MAX_PATH_BYTES = 4095
"""PATH_MAX of limits.h, without the NUL at the end."""

_DEEP_RECORD = re.compile(rb'\{"deep":\d+\} (.+)', re.DOTALL)
"""A record of KEPT for a folder that is not in the squashfs."""
_OWNER_RECORD = re.compile(rb"(\d+) (\d+) ([0-7]+) (?:\./)?(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Owner:
    """Owner and permissions of a file as root of the session saw them, with the set-id bits."""

    uid: int
    gid: int
    mode: int


class LayeredTree:
    """A tree under layers, oldest first. Each layer is a directory with `tree` and perhaps `owners`. Raises OSError."""

    def __init__(self, tree: Path, layers: Sequence[Path]) -> None:
        self.tree = tree
        trees = [layer / TREE for layer in layers]
        longest = MAX_PATH_BYTES - max(len(os.fsencode(root)) for root in (tree, *trees)) - len("/")
        self.entries: dict[str, MergedEntry] = {}
        """The entries of the layers, in the order of the paths."""
        self.too_long: list[str] = []
        """The topmost paths that no system call takes. Everything below them is skipped too."""
        with open_stack(trees, detect_marks(layers)) as stack:
            for entry in walk_merged(stack, longest=longest):
                path = entry.path
                if len(os.fsencode(path)) > longest:
                    self.too_long.append(path)
                else:
                    self.entries[path] = entry
        for layer in layers:
            self.too_long += deep_folders(layer)
        self._owners = [read_owners(layer) for layer in layers]
        self._links: dict[str, str] = {}
        self._shows: dict[str, bool] = {"": True}
        """By directory: whether what the tree has in it shows through the layers, and no link leads there."""

    def find(self, path: str) -> Path | None:
        """Return the file that a session sees at the relative `path`. Links in it are not followed."""
        entry = self.entries.get(path)
        if entry is not None and not entry.deleted:
            return entry.source
        return None if entry is not None else self.under(path)

    def under(self, path: str) -> Path | None:
        """Return the tree's file that shows through the layers at `path`; None if nothing does."""
        found = self.tree / path
        return found if self._shows_in(path.rpartition("/")[0]) and os.path.lexists(found) else None

    def _shows_in(self, directory: str) -> bool:
        """Whether what the tree has in a directory shows. Answers are kept: deep paths have many directories."""
        unknown = []
        while directory not in self._shows:
            unknown.append(directory)
            directory = directory.rpartition("/")[0]
        shows = self._shows[directory]
        for each in reversed(unknown):
            above = self.entries.get(each)
            hidden = above is not None and (above.opaque or above.kind is not EntryKind.DIRECTORY)
            shows = shows and not hidden and not (self.tree / each).is_symlink()
            self._shows[each] = shows
        return shows

    def text(self, path: str) -> str | None:
        """Read a file as a session sees it; None if it is not there."""
        return _read_text(self.find(path))

    def text_before(self, path: str) -> str | None:
        """Read a file of the tree itself; None if it is not there."""
        return _read_text(self.tree / path if _has_no_links(self.tree, path.split("/")) else None)

    def real_path(self, path: str) -> str:
        """Return the path of a file whose first directory may be a link, such as /bin and /lib in a merged /usr."""
        first, slash, rest = path.partition("/")
        if first not in self._links:
            place = self.find(first)
            self._links[first] = str(place.readlink()).strip("/") if place and place.is_symlink() else first
        return f"{self._links[first]}{slash}{rest}" if slash else path

    def owner(self, entry: MergedEntry, status: os.stat_result) -> Owner:
        """Return the owner of an entry of the layers; `status` is that of its source.

        The newest layer that records one decides, then the tree, whose owners sessions cannot change. A new file
        belongs to root.
        """
        for number in range(len(self._owners) - 1, -1, -1):
            known = self._owners[number].get(entry.path)
            if known is not None and number == entry.layer:
                return known
            if known is not None:
                return Owner(known.uid, known.gid, stat.S_IMODE(status.st_mode))
        below = self.under(entry.path)
        if below is not None:
            theirs = below.lstat()
            if stat.S_IFMT(theirs.st_mode) == stat.S_IFMT(status.st_mode):
                return Owner(theirs.st_uid, theirs.st_gid, stat.S_IMODE(status.st_mode))
        return Owner(0, 0, stat.S_IMODE(status.st_mode))

    def hidden_paths(self, entry: MergedEntry) -> Iterator[str]:
        """Yield the paths of the tree that an entry hides: all for a whiteout or a file, the content of an opaque
        directory.
        """
        below = self.under(entry.path)
        if below is None:
            return
        if entry.deleted:
            yield entry.path
        if (entry.opaque or entry.kind is not EntryKind.DIRECTORY) and below.is_dir() and not below.is_symlink():
            with Tree(below) as tree:
                for inner in walk(tree.root, is_steady=True):
                    path = f"{entry.path}/{os.fsdecode(inner.path)}"
                    if path not in self.entries:
                        yield path


def deep_folders(layer: Path) -> list[str]:
    """Return the paths of the folders that a packed layer has beside its squashfs. OSError."""
    if not os.path.lexists(layer / KEPT):
        return []
    records = read_records(layer / KEPT, MAX_KEPT_BYTES, longest=MAX_KEPT_RECORD_BYTES, own=False)
    return [os.fsdecode(found[1]) for record in records if (found := _DEEP_RECORD.fullmatch(record))]


def read_owners(layer: Path) -> dict[str, Owner]:
    """Read a layer's `owners`: records `UID GID MODE PATH`, MODE in octal, each ended by a NUL; {} if it has none."""
    found = {}
    try:
        for record in read_records(layer / OWNERS, MAX_OWNERS_BYTES, longest=MAX_OWNER_RECORD_BYTES, own=False):
            if match := _OWNER_RECORD.fullmatch(record):
                path = os.fsdecode(match[4]).lstrip("/")
                found[path] = Owner(int(match[1]), int(match[2]), int(match[3], 8) & 0o7777)
    except FileNotFoundError:
        return {}
    return found


def _has_no_links(tree: Path, parts: Sequence[str]) -> bool:
    """Whether no directory of a path is a link: the tree may be untrusted, and links in it may lead out of it."""
    place = tree
    for part in parts[:-1]:
        place /= part
        if place.is_symlink():
            return False
    return True


def _read_text(path: Path | None) -> str | None:
    try:
        if path is None or not stat.S_ISREG(path.lstat().st_mode):
            return None
        return read_text(path, MAX_TEXT_BYTES, own=False, errors="surrogateescape")
    except FileNotFoundError:
        return None
