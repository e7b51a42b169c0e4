"""Join a stack of overlay layers into one layer of the same content, by linking files instead of copying them."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from broker.volumes.content import copy_folder_attributes, duplicate_file
from broker.volumes.layers import MAX_OWNERS_BYTES, Layers
from broker.volumes.live_copy import OWNERS, TREE, copy_tree
from broker.volumes.saves import pack_changes
from broker.volumes.squashfs import unpack_layer
from profiles.image.overlayfs import (
    FUSE_WRITTEN,
    WHITEOUT_PREFIX,
    EntryKind,
    Marks,
    detect_marks,
    open_stack,
    walk_merged,
)
from profiles.local_folder import local_folder
from profiles.userfile import read_pieces
from profiles.walk import Tree, walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.volumes.record import Stack
    from profiles.image.overlayfs import LayerEntry
    from profiles.walk import Folder

OPAQUE_XATTR = "user.overlay.opaque"
WHITEOUT_MODE = stat.S_IFCHR | 0o600


def join_layers(layers: Layers, stack: Stack, below: Callable[[str], bool]) -> str:
    """Make one layer of a stack, oldest first, and return its id. The layers of the stack do not change.

    The new layer hides the same paths below the stack. Marks of deletion stay only where `below` reports an entry,
    since overlayfs lists a mark in a folder that one layer alone has. Files get one more name, folders are new. If a
    layer is packed, so is the joined one: all are unpacked on this machine's disk.
    """
    made = layers.new_layer()
    try:
        if any(layers.squashfs(layer).exists() for layer in stack):
            _repack(layers, stack, made, below)
        else:
            _fill(layers, stack, made, below)
    except Exception:
        layers.discard(made)  # it holds further names of every file: the next try would have fewer left
        raise
    return made


def _repack(layers: Layers, stack: Stack, made: str, below: Callable[[str], bool]) -> None:
    with local_folder() as room:
        local = Layers(room / "layers")
        local.root.mkdir()
        for layer in stack:
            local.path(layer).mkdir()
            if layers.squashfs(layer).exists():
                unpack_layer(layers.squashfs(layer), local.tree(layer))
            else:
                copy_tree(str(layers.tree(layer)), str(local.path(layer)))
            for name in (OWNERS, FUSE_WRITTEN):
                if (beside := layers.path(layer) / name).exists():
                    with (local.path(layer) / name).open("wb") as copied:
                        copied.writelines(read_pieces(beside, MAX_OWNERS_BYTES))
        joined = join_layers(local, stack, below)
        pack_changes(local.path(joined), layers.path(made))


def _fill(layers: Layers, stack: Stack, made: str, below: Callable[[str], bool]) -> None:
    marks = detect_marks(layers.path(layer) for layer in stack)
    root = layers.path(made) / TREE
    root.mkdir(mode=0o700)
    with open_stack([layers.tree(layer) for layer in stack], marks) as view, Tree(root) as tree:
        folders = [(tree.root, view.trees[-1].root, False)]
        parents = [tree.root]
        """The folder at each depth that is being filled."""
        links = HardLinks(tree)
        for entry in walk_merged(view):
            del parents[entry.depth + 1 :]
            parent, name = parents[-1], entry.found.name
            if entry.kind is EntryKind.DIRECTORY:
                os.mkdir(name, 0o700, dir_fd=parent.descriptor())
                parents.append(parent.folder(name))
                is_opaque = entry.opaque and below(entry.path)
                folders.append((parents[-1], entry.found.folder.folder(name), is_opaque))
            elif not entry.deleted:
                links.add(entry.found, parent)
            elif below(entry.path):
                white_out(parent, name, marks)
        for target, source, is_opaque in reversed(folders):
            _copy_folder_properties(target, source, is_opaque=is_opaque)
    if marks is Marks.FUSE:
        (layers.path(made) / FUSE_WRITTEN).touch()
    layers.join_owners(stack, made)
    layers.flush()


def white_out(folder: Folder, name: bytes, marks: Marks) -> None:
    """Mark a name as deleted, as the program would that mounts the layer. OSError."""
    try:
        os.mknod(name, WHITEOUT_MODE, dir_fd=folder.descriptor())
    except OSError:
        if marks is not Marks.FUSE:
            raise
        # As fuse-overlayfs does where the file system makes no devices.
        mark = os.fsencode(WHITEOUT_PREFIX) + name
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder.descriptor()))


class HardLinks:
    """Further names of files, in a new tree. A file that has as many names as the file system allows is copied.

    In either case the names in the new tree stay names of one file.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._copies: dict[int, tuple[Folder, bytes]] = {}
        """By the inode that has too many names: a name of its copy."""

    def add(self, source: LayerEntry, target: Folder) -> None:
        """Give a file of a layer its name in the folder `target`, too. OSError."""
        name, inode = source.name, source.status.st_ino
        if (copy := self._copies.get(inode)) is not None:
            _link(*copy, target, name)
            return
        try:
            _link(source.folder, name, target, name)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            duplicate_file(os.fsdecode(source.folder.short_path(name)), os.fsdecode(target.short_path(name)))
            self._replace(inode, (target, name))
            self._copies[inode] = (target, name)

    def _replace(self, inode: int, copy: tuple[Folder, bytes]) -> None:
        """Make names of a file that the tree has already names of its copy."""
        for entry in walk(self._tree.root, is_steady=True):
            if entry.status.st_ino == inode and not entry.is_folder:
                os.unlink(entry.name, dir_fd=entry.folder.descriptor())
                _link(*copy, entry.folder, entry.name)


def _link(source: Folder, name: bytes, target: Folder, new_name: bytes) -> None:
    """Make one more name of a file, or of a symbolic link."""
    read = os.dup(source.descriptor())  # the tree may close its own when it opens another folder
    try:
        os.link(name, new_name, src_dir_fd=read, dst_dir_fd=target.descriptor(), follow_symlinks=False)
    finally:
        os.close(read)


def _copy_folder_properties(target: Folder, source: Folder, *, is_opaque: bool) -> None:
    """Give a folder the attributes of the newest one of its name."""
    written = target.descriptor()
    copy_folder_attributes(source.descriptor(), written)
    if is_opaque:
        os.setxattr(written, OPAQUE_XATTR, b"y")
