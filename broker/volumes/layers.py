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
"""Prefix of the name of a directory that no record needs and that will be removed."""
SQUASHFS = "layer.squashfs"
HOME_MODE, SYSTEM_MODE = 0o700, 0o755
"""Of a volume's own root: the session's home, and its `/`, through which the accounts of packages have to get."""
MAX_OWNERS_BYTES = 2**30
"""Limit for a layer's `owners`: some ten million files."""
RESERVED_BYTES = 64 * 2**20
"""Bytes that stay free: manifests and logs need some even after a copy has used the rest."""


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

    def new_layer(self) -> str:
        """Make an empty directory for a layer and return its id."""
        layer = new_id()
        self.path(layer).mkdir(mode=0o700)
        return layer

    def new_top(self, mode: int, like: str = "") -> str:
        """Make an empty top, on disk before a record names it, and return its id. With `like`, its root equals that
        layer's.
        """
        top = self.new_layer()
        for name, bits in ((TREE, mode), (WORK, 0o700)):
            self.path(top).joinpath(name).mkdir()
            self.path(top).joinpath(name).chmod(bits)
        if like and self.tree(like).exists():  # a packed snapshot has none
            copy_root_attributes(self.tree(like), self.tree(top))
        sync_path(self.path(top))
        sync_path(self.root)
        return top

    def is_untouched(self, top: str, below: Sequence[str], mode: int) -> bool:
        """Whether a top is unchanged since it was made: it is empty, and its root equals that of the newest layer
        below.

        The times of the root do not count: they change with each file that is created and removed.
        """
        with os.scandir(self.tree(top)) as entries:
            if next(entries, None) is not None:
                return False
        with _open_folder(self.tree(top)) as fd:
            root = (stat.S_IMODE(os.fstat(fd).st_mode), _root_attributes(fd))
        if below:
            try:
                with _open_folder(self.tree(below[-1])) as fd:
                    return root == (stat.S_IMODE(os.fstat(fd).st_mode), _root_attributes(fd))
            except FileNotFoundError:  # lost: a rollback to a complete snapshot must work all the same
                return False
        with _open_folder(self.path(top) / WORK) as fd:  # made together; each has access lists of its own mode
            inherited = _root_attributes(fd)
        for found in (root[1], inherited):
            found.pop("system.posix_acl_access", None)
        return root == (mode, inherited)

    def check(self, layers: set[str]) -> None:
        """Require that these layers exist. VolumeError `missing` names one that does not."""
        for layer in sorted(layers):
            if not self.tree(layer).is_dir() and not self.squashfs(layer).is_file():
                raise VolumeError("missing", f"the layer {layer} is missing: {self.path(layer)}")

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
        """Write every layer to disk, before a record names a new one instead of an old one."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync_file_system(fd)
        finally:
            os.close(fd)

    def all(self) -> list[str]:
        return sorted(entry.name for entry in self.root.iterdir() if IDENTIFIER.fullmatch(entry.name))

    def aside(self, layer: str) -> Path:
        """Return the path to which a layer without a name in any record is renamed before its removal."""
        return self.root / f"{REMOVAL_PREFIX}{layer}"

    def put_aside(self, layer: str) -> None:
        """Rename a layer, so that it counts as none."""
        with contextlib.suppress(FileNotFoundError):
            self.path(layer).rename(self.aside(layer))

    def discard(self, layer: str) -> None:
        """Remove a layer that no record names. Repeating the call is safe."""
        self.put_aside(layer)
        remove_tree(self.aside(layer))

    def leftovers(self) -> list[Path]:
        """Return the leftovers of an interrupted removal, probe or diff: no other name begins with a dot."""
        return [entry for entry in self.root.iterdir() if entry.name.startswith(".")]


def copy_root_attributes(like: Path, tree: Path) -> None:
    """Copy the attributes of one volume's root to another. OSError."""
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
    """Require `wanted` bytes of free space for the user on the file system of `path`. VolumeError `space`."""
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    if free < wanted + RESERVED_BYTES:
        raise VolumeError("space", f"this needs about {wanted >> 20} MiB, and {free >> 20} MiB are free")
