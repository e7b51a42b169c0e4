"""Disk space of a session's parts, and of all layers of a user.

Each layer is counted once. Every inode has a set of holders: the parts of the session whose layers have names of it,
and other sessions that need it. The sums over these sets answer every question.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.volumes import record
from broker.volumes.errors import VolumeError
from broker.volumes.inodes import BLOCK_BYTES, LayerInodes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from broker.volumes.record import Record
    from broker.volumes.storage import Storage

Answer = dict[str, Any]

ELSEWHERE, HELD = 1, 2
"""Holders that are no part: other sessions, and what this session needs besides, such as its last live copy."""
FIRST_PART = 4


@dataclass(slots=True)
class Share:
    """Disk space that one set of holders has in common, each file counted once."""

    blocks: int = 0
    files: int = 0

    def add(self, blocks: int, files: int) -> None:
        self.blocks += blocks
        self.files += files


def session_size(storage: Storage, session_id: str) -> Answer:
    """Return the disk space of a session: of each volume and snapshot alone, and of its parts.

    VolumeError if a record of the user's cannot be read. Tops of other sessions are not read: Berth links none of their
    files to a layer.
    """
    found = record.load_record(storage.session(session_id))
    layers = CountedLayers(storage)
    layers.add(found, HELD)
    parts = _parts(found)
    for number, part in enumerate(parts.values()):
        for layer in part:
            layers.holders[layer] = layers.holders[layer] & ~HELD | FIRST_PART << number
    for other_id, other in storage.records():
        layers.written |= storage.job_tops(other_id)
        if other_id != session_id:
            layers.add(other, ELSEWHERE, only=other.immutable_layers() | layers.holders.keys())
    shares = layers.shares()
    lines = []
    for number, what in enumerate(parts):
        bit = FIRST_PART << number
        whole = [share for holder, share in shares.items() if holder & bit]
        files = max(0, sum(share.files for share in whole))
        lines.append({"what": what, "own": _bytes([shares.get(bit, Share())]), "total": _bytes(whole), "files": files})
    total = _bytes(share for holder, share in shares.items() if holder != ELSEWHERE)
    room = os.statvfs(storage.root)
    free = room.f_bavail * room.f_frsize
    return {"lines": lines, "bytes": total, "free": free, "system_as_of": storage.read_save_time(session_id, found)}


def user_usage(storage: Storage) -> Answer:
    """Return the bytes of disk that all layers of a user take, those of deleted sessions that are kept included."""
    if not storage.layers.root.is_dir():  # of one who has never had a session
        return {"bytes": 0}
    layers = CountedLayers(storage)
    try:
        for session_id, found in storage.records():
            layers.add(found, HELD)
            layers.written |= storage.job_tops(session_id)
    except (VolumeError, OSError):  # without all records nothing is known to be immutable
        layers.immutable.clear()
    layers.holders = dict.fromkeys(storage.layers.all(), HELD)
    return {"bytes": _bytes(layers.shares().values())}


def _parts(found: Record) -> dict[str, set[str]]:
    """The layers of each part of a session, by the part's name."""
    volumes = (("home", found.home), ("system", found.system))
    parts = {name: {*volume.layers, *volume.saved, volume.top} for name, volume in volumes}
    return parts | {f"snapshot {each.number}": {*each.home, *each.system} for each in found.snapshots}


def _bytes(shares: Iterable[Share]) -> int:
    return max(0, sum(share.blocks for share in shares)) * BLOCK_BYTES  # numbers that a user has changed may be any


class CountedLayers:
    """Layers to be counted, each with the set of its holders: a number with a bit for each of them."""

    def __init__(self, storage: Storage) -> None:
        self.holders: dict[str, int] = {}
        self.immutable: set[str] = set()
        self.written: set[str] = set()
        """Layers with writers, even if `immutable` has them."""
        self._storage = storage
        self._is_written_out: bool | None = None

    def add(self, found: Record, holder: int, *, only: AbstractSet[str] | None = None) -> None:
        """Add the layers that a record names, or `only` some of them."""
        named, immutable = found.named_layers(), found.immutable_layers()
        self.immutable |= immutable
        self.written |= named - immutable
        for layer in named if only is None else named & only:
            self.holders[layer] = self.holders.get(layer, 0) | holder

    def shares(self) -> dict[int, Share]:
        """Return what is in the layers, by the set of its holders.

        A file with names in two layers had several names when the later one was counted. So only the files that had
        some are looked for in all layers.
        """
        counted = self._count_layers()
        shares: dict[int, Share] = {}
        linked: dict[int, int] = {}
        blocks: dict[int, int] = {}
        sets: dict[int, int] = {}  # one object for each number
        for bits, layer in counted:
            share = shares.setdefault(bits, Share())
            for part in layer.parts():
                share.add(part.blocks, part.files)
                for inode, size_ in part.linked.items():
                    both = linked.get(inode, 0) | bits
                    linked[inode] = sets.setdefault(both, both)
                    blocks[inode] = size_
        for bits, layer in counted if linked else ():
            for part in layer.parts():
                for inode in filter(linked.__contains__, part.single):
                    shares[bits].add(-blocks[inode], -1)
                    both = linked[inode] | bits
                    linked[inode] = sets.setdefault(both, both)
        for inode, bits in linked.items():
            shares.setdefault(bits, Share()).add(blocks[inode], 1)
        return shares

    def _count_layers(self) -> list[tuple[int, LayerInodes]]:
        layers = self._storage.layers
        device = layers.root.stat().st_dev
        counted = []
        for layer, bits in sorted(self.holders.items()):
            settle = self._write_out if layer in self.immutable - self.written else None
            with contextlib.suppress(FileNotFoundError):
                counted.append((bits, LayerInodes(layers.path(layer), device, settle=settle)))
        return counted

    def _write_out(self) -> bool:
        if self._is_written_out is None:
            try:
                self._storage.layers.flush()
                self._is_written_out = True
            except OSError:
                self._is_written_out = False
        return self._is_written_out
