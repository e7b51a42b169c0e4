"""Joins a stack of overlay layers into one that shows the same, by linking files instead of copying them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from broker.volumes.copying import TREE, dress_folder
from profiles.overlay import FUSE_WRITTEN, Entry, Kind, merged

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
    trees = [layers.tree(layer) for layer in stack]
    by_fuse = any((layers.path(layer) / FUSE_WRITTEN).exists() for layer in stack)
    made = layers.new()
    root = layers.path(made) / TREE
    root.mkdir(mode=0o700)
    folders = [(root, trees[-1], False)]
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
            _link(entry, target)
    for target, source, opaque in reversed(folders):
        _dress(target, source, opaque=opaque)
    if by_fuse:
        (layers.path(made) / FUSE_WRITTEN).touch()
    layers.join_owners(stack, made)
    layers.flush()
    return made


def _link(entry: Entry, target: os.PathLike[str]) -> None:
    assert entry.source is not None
    os.link(entry.source, target, follow_symlinks=False)


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
