"""Joins a stack of overlay layers into one that shows the same, by linking files instead of copying them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from broker.volumes.content import dress_folder, duplicate
from broker.volumes.copying import TREE
from profiles.overlay import FUSE_WRITTEN, Kind, merged

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.volumes.layers import Layers
    from broker.volumes.record import Stack

OPAQUE = "user.overlay.opaque"
WHITEOUT = stat.S_IFCHR | 0o600


def join(layers: Layers, stack: Stack, below: Callable[[str], bool]) -> str:
    """Make one layer of a stack, the oldest first; its id. The layers of the stack stay as they are.

    It hides of what lies below the stack what that hid: marks of deletion stay where `below` says that there is
    something, and only there, since overlayfs lists a mark in a folder that one layer alone has. Files have one more
    name afterwards, folders are new.
    """
    made = layers.new()
    try:
        _fill(layers, stack, made, below)
    except Exception:
        layers.discard(made)  # it holds further names of every file: the next try would have fewer left
        raise
    return made


def _fill(layers: Layers, stack: Stack, made: str, below: Callable[[str], bool]) -> None:
    trees = [layers.tree(layer) for layer in stack]
    by_fuse = any((layers.path(layer) / FUSE_WRITTEN).exists() for layer in stack)
    root = layers.path(made) / TREE
    root.mkdir(mode=0o700)
    folders = [(root, trees[-1], False)]
    links = Links(root)
    for entry in merged(trees, whiteout_files=by_fuse):
        target = root / entry.path
        if entry.kind is Kind.DIRECTORY:
            assert entry.source is not None
            target.mkdir(mode=0o700)
            folders.append((target, entry.source, entry.opaque and below(entry.path)))
        elif entry.deleted:
            if below(entry.path):
                os.mknod(target, WHITEOUT)
        else:
            assert entry.source is not None
            links.add(entry.source, target)
    for target, source, opaque in reversed(folders):
        _dress(target, source, opaque=opaque)
    if by_fuse:
        (layers.path(made) / FUSE_WRITTEN).touch()
    layers.join_owners(stack, made)
    layers.flush()


class Links:
    """Further names of files, in a new tree; a file that has as many as the file system allows is copied.

    The names in the new tree stay names of one file in either case.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._copies: dict[int, Path] = {}
        """By the inode that has too many names: a name of its copy."""

    def add(self, source: Path, target: Path) -> None:
        if self._copies and (copy := self._copies.get(source.lstat().st_ino)) is not None:
            os.link(copy, target, follow_symlinks=False)
            return
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            duplicate(str(source), str(target))
            inode = source.lstat().st_ino
            self._replace(inode, target)
            self._copies[inode] = target

    def _replace(self, inode: int, copy: Path) -> None:
        """Make names of a file that the tree has already names of its copy."""
        waiting = [os.fspath(self._root)]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.inode() == inode:
                        Path(entry.path).unlink()
                        os.link(copy, entry.path, follow_symlinks=False)


def _dress(target: os.PathLike[str], source: os.PathLike[str], *, opaque: bool) -> None:
    """Give a folder the attributes of the newest one of its name."""
    read = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    written = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        dress_folder(read, written)
        if opaque:
            os.setxattr(written, OPAQUE, b"y")
    finally:
        os.close(read)
        os.close(written)
