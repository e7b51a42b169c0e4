"""Directories of layers: `layers/<id>/tree` with a layer's content, and `work` beside it for a top.

No directory ever moves: a top is born as a layer, and freezing it is a change of a session's record alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.names import IDENTIFIER, new_id
from broker.volumes.content import KEPT_MARKS, copy_folder_attributes, read_attributes, sync_file_system
from broker.volumes.errors import VolumeError
from broker.volumes.files import sync_path
from broker.volumes.live_copy import OWNERS, TREE
from profiles.removal import remove_tree
from profiles.userfile import read_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

WORK = "work"
REMOVAL_PREFIX = ".gone-"
"""Begins the name of what nothing names any more and is to be removed."""
SQUASHFS = "layer.squashfs"
HOME_MODE, SYSTEM_MODE = 0o700, 0o755
"""Of a volume's own root: the session's home, and its `/`, through which the accounts of packages have to get."""
MAX_OWNERS_BYTES = 2**30
"""Limit for a layer's `owners`: some ten million files."""
RESERVED_BYTES = 64 * 2**20
"""Bytes that are left free: manifests and logs need some even when a copy has taken the rest."""


@dataclass(frozen=True, slots=True)
class Layers:
    """All layers of one user, in one directory of theirs."""

    root: Path

    def path(self, layer: str) -> Path:
        return self.root / layer

    def tree(self, layer: str) -> Path:
        return self.root / layer / TREE

    def squashfs(self, layer: str) -> Path:
        return self.root / layer / SQUASHFS

    def new(self) -> str:
        """Make an empty directory for a layer; its id."""
        layer = new_id()
        self.path(layer).mkdir(mode=0o700)
        return layer

    def new_top(self, mode: int, like: str = "") -> str:
        """Make an empty top, on disk before a record names it; its id. With `like`, its root is as that layer's."""
        top = self.new()
        for name, bits in ((TREE, mode), (WORK, 0o700)):
            self.path(top).joinpath(name).mkdir()
            self.path(top).joinpath(name).chmod(bits)
        if like and self.tree(like).exists():  # a packed snapshot has none
            copy_root_attributes(self.tree(like), self.tree(top))
        sync_path(self.path(top))
        sync_path(self.root)
        return top

    def is_untouched(self, top: str, below: Sequence[str], mode: int) -> bool:
        """Whether a top is as it was made: nothing was written to it, and its root is as in the newest layer below.

        The times of the root do not count: they change with each file that comes and goes.
        """
        with os.scandir(self.tree(top)) as entries:
            if next(entries, None) is not None:
                return False
        with _open_folder(self.tree(top)) as fd:
            root = (stat.S_IMODE(os.fstat(fd).st_mode), _root_attributes(fd))
        if below:
            with _open_folder(self.tree(below[-1])) as fd:
                return root == (stat.S_IMODE(os.fstat(fd).st_mode), _root_attributes(fd))
        with _open_folder(self.path(top) / WORK) as fd:  # made together; each has access lists of its own mode
            inherited = _root_attributes(fd)
        for found in (root[1], inherited):
            found.pop("system.posix_acl_access", None)
        return root == (mode, inherited)

    def check(self, layers: set[str]) -> None:
        """VolumeError `missing` names a layer that is not there."""
        for layer in sorted(layers):
            if not self.tree(layer).is_dir() and not self.squashfs(layer).is_file():
                raise VolumeError("missing", f"the layer {layer} is not there: {self.path(layer)}")

    def join_owners(self, stack: Sequence[str], layer: str) -> None:
        """Give `layer` the owners that the layers of `stack`, oldest first, have written down."""
        left = MAX_OWNERS_BYTES
        for each in stack:
            path = self.path(each) / OWNERS
            if not os.path.lexists(path):
                continue
            with (self.path(layer) / OWNERS).open("ab") as joined:
                for piece in read_pieces(path, left):
                    left -= len(piece)
                    joined.write(piece)

    def flush(self) -> None:
        """Have every layer on disk, before a record names a new one instead of an old one."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync_file_system(fd)
        finally:
            os.close(fd)

    def all(self) -> list[str]:
        return sorted(entry.name for entry in self.root.iterdir() if IDENTIFIER.fullmatch(entry.name))

    def aside(self, layer: str) -> Path:
        """Where a layer that nothing names is put, to be removed."""
        return self.root / f"{REMOVAL_PREFIX}{layer}"

    def put_aside(self, layer: str) -> None:
        """Have a layer be none any more, by a rename."""
        with contextlib.suppress(FileNotFoundError):
            self.path(layer).rename(self.aside(layer))

    def discard(self, layer: str) -> None:
        """Remove a layer that nothing names; done already is done."""
        self.put_aside(layer)
        remove_tree(self.aside(layer))

    def discarded(self) -> list[Path]:
        """What has been left by a removal, a probe or a diff that was interrupted: nothing else begins with a dot."""
        return [entry for entry in self.root.iterdir() if entry.name.startswith(".")]


def copy_root_attributes(like: Path, tree: Path) -> None:
    """Give a volume's root the attributes of another one's. OSError."""
    with _open_folder(like) as source, _open_folder(tree) as target:
        copy_folder_attributes(source, target)


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


def _root_attributes(fd: int) -> dict[str, bytes]:
    return {name: value for name, value in read_attributes(fd).items() if name not in KEPT_MARKS}


def require_free_space(path: Path, wanted: int) -> None:
    """VolumeError `space` if fewer than `wanted` bytes are free for the user on the file system of `path`."""
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    if free < wanted + RESERVED_BYTES:
        raise VolumeError("space", f"this needs about {wanted >> 20} MiB, and {free >> 20} MiB are free")
