"""Disk space of a layer's files by inode, and the file beside an immutable layer that stores it.

A file may have names in several layers, since live copies and flattening link files. So neither a sum over a layer's
names nor the number of links, which changes with the next layer, gives the space of one layer. The stored data is the
inode numbers.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zlib
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.names import new_id
from broker.volumes import progress
from broker.volumes.live_copy import TREE
from profiles.userfile import read_bytes
from profiles.walk import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from profiles.walk import Folder

Key = tuple[int, int]
"""The inode and the time of change (ns) of a layer's tree: a copy of the layer, or one put back, has others."""

TREE_NAME = TREE.encode()
INODES = "inodes"
"""Beside a layer's `tree`."""
MAX_INODES_BYTES = 2**28
"""Limit for this file: 33 million files with one name each."""
BLOCK_BYTES = 512
"""Of st_blocks in stat(2)."""
MAX_BLOCKS = 2**40
"""Limit for one layer, 512 TiB. A file with a larger number is damaged."""
MAGIC = 0x31_65_64_6F_6E_69_62_7E
HEAD = struct.Struct("=8Q")
"""MAGIC, the inode and the time of change (ns) of `tree`, Inodes.blocks, Inodes.files, how many numbers `single` and
`linked` have, and a CRC-32 of these and all that follows. In the byte order of the machine, as the numbers behind it.
"""


@dataclass(slots=True)
class Inodes:
    """The inodes below a folder."""

    blocks: int = 0
    """Of folders, and of files in `single`; BLOCK_BYTES each."""
    files: int = 0
    """Number of files with one name; everything but a folder is a file here."""
    single: array[int] = field(default_factory=lambda: array("Q"))
    """Files that had one name."""
    linked: dict[int, int] = field(default_factory=dict)
    """Blocks of files that had more names, wherever these were."""
    has_one_device: bool = True
    """Whether inode numbers identify all files: a folder may be another file system (a btrfs subvolume)."""

    @property
    def bytes(self) -> int:
        """Disk space, each file counted once."""
        return (self.blocks + sum(self.linked.values())) * BLOCK_BYTES

    def add(self, status: os.stat_result, device: int) -> None:
        """Count one entry; `device` is that of most files."""
        if stat.S_ISDIR(status.st_mode):
            self.blocks += status.st_blocks
        elif status.st_nlink > 1:
            inode = status.st_ino if status.st_dev == device else status.st_dev << 64 | status.st_ino
            self.linked[inode] = status.st_blocks
        else:
            self.blocks += status.st_blocks
            self.files += 1
            if status.st_dev == device:  # no link leads from one device to another
                self.single.append(status.st_ino)

    def walk(self, folder: Folder, device: int) -> None:
        """Count everything below a folder. OSError."""
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for entry in current.entries():
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    self.add(status, device)
                    progress.count(files=1)
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(current.folder(os.fsencode(entry.name)))
                        self.has_one_device &= status.st_dev == device


class LayerInodes:
    """The inodes of a layer's directory. Those of a tree that are kept on disk are read each time, not held."""

    def __init__(self, layer: Path, device: int, *, settle: Callable[[], bool] | None) -> None:
        """Count what no file keeps. OSError. `device` is that of the directory with all layers.

        With `settle` the layer is immutable: its tree's inodes are read from that file, or kept there if `settle` has
        written out what the tree has. A file system knows only afterwards how much a file takes.
        """
        self._layer = layer
        self._inside: Inodes | None = None
        """None: `inodes` has them."""
        self._beside = Inodes()
        with Tree(layer) as opened:
            top = opened.root
            key = _key(top)
            if key is not None and (settle is None or read_inodes(layer, key) is None):
                is_settled = settle is not None and settle()
                self._inside = Inodes()
                self._inside.walk(top.folder(TREE_NAME), device)
                if is_settled and self._inside.has_one_device and key == _key(top):
                    self._inside = self._inside if not write_inodes(layer, key, self._inside) else None
            self._key = key
            self._count_beside(top, device)

    def parts(self) -> Iterator[Inodes]:
        """Yield all inodes, in two parts."""
        yield self._beside
        if self._inside is not None:
            yield self._inside
        elif self._key is not None and (kept := read_inodes(self._layer, self._key)) is not None:
            yield kept

    def _count_beside(self, top: Folder, device: int) -> None:
        for entry in top.entries():
            name = os.fsencode(entry.name)
            status = top.status(name)
            if status is None:
                continue
            self._beside.add(status, device)
            self._beside.files -= name == INODES.encode()
            if stat.S_ISDIR(status.st_mode) and name != TREE_NAME:
                self._beside.walk(top.folder(name), device)


def _key(layer: Folder) -> Key | None:
    """Return the inode and the time of change (ns) of a layer's tree, None if it has none: it is packed."""
    status = layer.status(TREE_NAME)
    return (status.st_ino, status.st_ctime_ns) if status is not None and stat.S_ISDIR(status.st_mode) else None


def read_inodes(layer: Path, key: Key) -> Inodes | None:
    """Return the stored inodes of the tree that `key` identifies; None without a complete file of that tree."""
    try:
        content = memoryview(read_bytes(layer / INODES, MAX_INODES_BYTES))
        magic, inode, changed, blocks, files, single, linked, checksum = HEAD.unpack_from(content)
    except (OSError, struct.error):
        return None
    numbers = array("Q")
    body = content[HEAD.size :]
    if (magic, inode, changed) != (MAGIC, *key) or len(body) != (single + 2 * linked) * numbers.itemsize:
        return None
    if checksum != zlib.crc32(body, zlib.crc32(content[: HEAD.size - numbers.itemsize])):
        return None
    numbers.frombytes(body)
    found = Inodes(
        blocks=blocks,
        files=files,
        single=numbers[:single],
        linked=dict(zip(numbers[single : single + linked], numbers[single + linked :], strict=True)),
    )
    return found if found.bytes <= MAX_BLOCKS * BLOCK_BYTES else None


def write_inodes(layer: Path, key: Key, inodes: Inodes) -> bool:
    """Store the inodes of a layer's tree. False if that is not possible; a later call then counts again.

    The file is not synced: after a crash its checksum shows whether it is complete.
    """
    if inodes.bytes > MAX_BLOCKS * BLOCK_BYTES:
        return False
    body = inodes.single + array("Q", inodes.linked) + array("Q", inodes.linked.values())
    if HEAD.size + len(body) * body.itemsize > MAX_INODES_BYTES:
        return False
    fields = (MAGIC, *key, inodes.blocks, inodes.files, len(inodes.single), len(inodes.linked))
    head = HEAD.pack(*fields, 0)[: -body.itemsize]
    content = HEAD.pack(*fields, zlib.crc32(body, zlib.crc32(head)))
    fresh = layer / f".{INODES}.{new_id()}"
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.write(body)
            fresh.rename(layer / INODES)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
    except OSError:  # no room, or the layer has been removed
        return False
    return True
