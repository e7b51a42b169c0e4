"""Apply a session's layers to an image's tree. Runs as root of that tree, which owns files as it says."""

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
    """Make the tree what the session sees, but for the relative paths `left_out` and what is below them.

    The tree may be a stranger's: what is a link in it is replaced, never followed. Raises OSError.
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
    """Tell where in the tree an entry belongs, its directories made; None for a deletion where there are none.

    Directories that are there join `made`, so that a deep path is not looked at once more for each one in it.
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
    """Make at `place` what is at `source`; files that are one file there are one here."""
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
