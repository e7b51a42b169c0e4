"""Comparison of immutable layers with their checksums."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.volumes import record
from broker.volumes.copying import TREE
from broker.volumes.inspection import printable
from broker.volumes.layers import SQUASHFS
from profiles.userfile import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.volumes.storage import Storage

Answer = dict[str, Any]

MOST_PROBLEMS = 200
"""That `verify` tells of."""
SUMS = "sums"
"""Beside a layer's `tree`: a checksum a path, written when the layer was first verified."""
SUMS_BYTES = 2**30
"""Limit for that file: some ten million files."""
LONGEST_SUM_BYTES = 64 + 1 + 4096
"""Bytes of one of its records: a SHA-256 in hexadecimal digits, a blank, and PATH_MAX of limits.h."""


def verify(storage: Storage, session_id: str) -> Answer:
    """Read every immutable layer of a session, and compare it with what it was when it was first read.

    A layer that was never verified gets its checksums now. Tops are not read: they are being written to.
    """
    found = record.load(storage.session(session_id))
    immutable = found.named_layers() - {found.home.top, found.system.top}
    recorded = 0
    problems = _Problems()
    for layer in sorted(immutable):
        path = storage.layers.path(layer)
        if not path.is_dir():
            problems.add(f"{layer}: the layer is not there")
            continue
        sums = {os.fsencode(name): digest for name, digest in _sums(path)}
        if not os.path.lexists(path / SUMS):
            record.write(path / SUMS, (b"%s %s\0" % (digest.encode(), name) for name, digest in sums.items()))
            recorded += 1
            continue
        problems.compare(layer, path / SUMS, sums)
    return {"layers": len(immutable), "recorded": recorded, "problems": problems.lines()}


class _Problems:
    """Differences between layers and their checksums: the first MOST_PROBLEMS, and how many there are."""

    def __init__(self) -> None:
        self._told: list[str] = []
        self._count = 0

    def add(self, problem: str) -> None:
        self._count += 1
        if len(self._told) < MOST_PROBLEMS:
            self._told.append(printable(problem))

    def compare(self, layer: str, file: Path, sums: dict[bytes, str]) -> None:
        """Compare what is in a layer with its file of checksums, of which one record at a time is in memory. Takes the
        paths that the file names out of `sums`.
        """
        changed = []
        for each in read_records(file, SUMS_BYTES, longest=LONGEST_SUM_BYTES):
            known, _, path = each.partition(b" ")
            found = sums.pop(path, None)
            if found is None:
                self.add(f"{layer}: {os.fsdecode(path)}: is not there any more")
            elif found.encode() != known:
                changed.append(path)
        for path in sorted(sums):
            self.add(f"{layer}: {os.fsdecode(path)}: was not there before")
        for path in changed:
            self.add(f"{layer}: {os.fsdecode(path)}: is not what it was")

    def lines(self) -> list[str]:
        more = self._count - len(self._told)
        return [*self._told, f"… and {more} more"] if more else self._told


def _sums(layer: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and a digest of everything in a layer: content, kind, mode, and time of modification."""
    if (layer / SQUASHFS).exists():
        yield SQUASHFS, _digest(layer / SQUASHFS, (layer / SQUASHFS).lstat())
        return
    for parent, folders, files in os.walk(layer / TREE):
        folders.sort()
        for name in sorted([*folders, *files], key=os.fsencode):
            path = Path(parent, name)
            yield str(path.relative_to(layer / TREE)), _digest(path, path.lstat())


def _digest(path: Path, status: os.stat_result) -> str:
    digest = hashlib.sha256(f"{status.st_mode:o} {status.st_rdev} ".encode())
    if stat.S_ISLNK(status.st_mode):
        digest.update(os.fsencode(path.readlink()))
    elif stat.S_ISREG(status.st_mode):
        digest.update(str(status.st_mtime_ns).encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
