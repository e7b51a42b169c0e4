"""Apply a session's layers to an image's tree. This runs as root of the tree, with the owners of its files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.image.overlayfs import EntryKind, MergedEntry
from profiles.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from profiles.image.layered_tree import LayeredTree


def apply_layers(system: LayeredTree, left_out: AbstractSet[str]) -> None:
    """Make the tree equal to the session's view, except for the relative paths `left_out` and everything below them.

    The tree may be untrusted: a link in it is replaced, never followed. Raises OSError.
    """
    # The tree is about to change, and who owns what is asked of it as it was.
    wanted = [
        (entry, system.owner(entry, entry.source.lstat()) if entry.source else None)
        for entry in system.entries.values()
        if entry.kind is not EntryKind.OTHER and not _is_in_any(entry.path, left_out)
    ]
    copies = dict[tuple[int, int], Path]()
    folders = {""}
    for entry, owner in wanted:
        place = _prepare_parent(system.tree, entry, folders)
        if owner is None or entry.source is None:
            if place is not None:
                remove_tree(place)
            continue
        assert place is not None
        _write_entry(entry, entry.source, place, copies)
        os.chown(place, owner.uid, owner.gid, follow_symlinks=False)
        if entry.kind is not EntryKind.SYMLINK:
            place.chmod(owner.mode)


def _is_in_any(path: str, paths: AbstractSet[str]) -> bool:
    while path not in paths:
        path, slash, _ = path.rpartition("/")
        if not slash:
            return False
    return True


def _prepare_parent(tree: Path, entry: MergedEntry, made: set[str]) -> Path | None:
    """Return the path of an entry in the tree, with its directories made; None for a deletion without a directory.

    Existing directories join `made`, so that a deep path is not checked again for each entry in it.
    """
    wanted = []
    folder = entry.path.rpartition("/")[0]
    while folder not in made:
        wanted.append(folder)
        folder = folder.rpartition("/")[0]
    for each in reversed(wanted):
        place = tree / each
        if place.is_symlink() or not place.is_dir():
            if entry.deleted:
                return None
            remove_tree(place)
            place.mkdir(0o755)
        made.add(each)
    return tree / entry.path


def _write_entry(entry: MergedEntry, source: Path, place: Path, copies: dict[tuple[int, int], Path]) -> None:
    """Copy the entry `source` to `place`. Names of one file stay names of one file."""
    if entry.kind is EntryKind.DIRECTORY:
        if entry.opaque or place.is_symlink() or not place.is_dir():
            remove_tree(place)
            place.mkdir(0o755)
        return
    remove_tree(place)
    if entry.kind is EntryKind.SYMLINK:
        place.symlink_to(source.readlink())
        return
    status = source.lstat()
    inode = (status.st_dev, status.st_ino)
    if status.st_nlink > 1 and inode in copies:
        os.link(copies[inode], place)
        return
    shutil.copyfile(source, place)
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    copies[inode] = place
