"""What is in volumes: what has changed, how much there is, and whether it is still what was written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.volumes import record
from broker.volumes.comparison import Depth, compare, open_both
from broker.volumes.copying import TREE
from broker.volumes.drivers import Overlay, unpack
from broker.volumes.layers import SQUASHFS, extent, remove_tree
from broker.volumes.packages import installed, package_changes
from profiles.overlay import Marks, marks_of
from profiles.userfile import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.volumes.image import ImageFiles
    from broker.volumes.record import Record, Stack, Volume
    from broker.volumes.storage import Storage
    from profiles.overlay import Stack as OpenStack

Answer = dict[str, Any]

MOST_FILES = 5000
"""Changed files that a diff tells of."""
MOST_CHARACTERS = 2**20
"""Of their paths together."""
MOST_PROBLEMS = 200
"""That `verify` tells of."""
SUMS = "sums"
"""Beside a layer's `tree`: a checksum a path, written when the layer was first verified."""
SUMS_BYTES = 2**30
"""Limit for that file: some ten million files."""
LONGEST_SUM_BYTES = 64 + 1 + 4096
"""Bytes of one of its records: a SHA-256 in hexadecimal digits, a blank, and PATH_MAX of limits.h."""


def diff(
    storage: Storage,
    session_id: str,
    number: int | None,
    *,
    base_packages: str = "",
    image: ImageFiles,
    content: bool = False,
) -> Answer:
    """Compare what a session has now with its profile, or with one of its snapshots.

    `base_packages` is the image's packages.txt. Files are told up to MOST_FILES; those of a home in comparison with a
    profile are all of it. With `content`, files that look the same are read.
    """
    found = record.load(storage.session(session_id))
    snapshot = None if number is None else found.snapshot(number)
    files: list[dict[str, str]] = []
    characters = 0
    homes = (snapshot.home if snapshot else (), _now(found.home))
    systems = (snapshot.system if snapshot else (), _now(found.system))
    with _unpacked(storage, {*homes[0], *homes[1], *systems[0], *systems[1]}) as trees:
        with _opened(storage, systems, trees) as (before, after):
            packages = package_changes(installed(before, base_packages), installed(after, base_packages))
        for volume, stacks in (("home", homes), ("system", systems)):
            # A plain directory is mounted by no overlay: everything in it is content.
            marks = Marks.NONE if volume == "home" and found.driver != Overlay.name else None
            seconds = any(storage.layers.squashfs(layer).exists() for stack in stacks for layer in stack)
            with _opened(storage, stacks, trees, marks) as (before, after):
                over = image if volume == "system" else None
                for change, path in compare(before, after, over, Depth(seconds=seconds, content=content)):
                    files.append({"change": change, "volume": volume, "path": printable(path)})
                    characters += len(files[-1]["path"])
                    if len(files) > MOST_FILES or characters > MOST_CHARACTERS:
                        return {"packages": packages, "files": files[:-1], "truncated": True}
    return {"packages": packages, "files": files, "truncated": False}


def printable(path: str) -> str:
    """A path as text that can be sent: bytes that are no UTF-8 become escapes."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _now(volume: Volume) -> Stack:
    return (*volume.layers, volume.top)


@contextlib.contextmanager
def _unpacked(storage: Storage, layers: set[str]) -> Iterator[dict[str, Path]]:
    """Give the tree of each layer; a layer that is packed is unpacked for the time of the block."""
    packed = sorted(layer for layer in layers if storage.layers.squashfs(layer).exists())
    trees = {layer: storage.layers.tree(layer) for layer in layers}
    with record.locked(storage.lock, shared=True):  # or `collect` takes it for something left behind
        room = Path(tempfile.mkdtemp(prefix=".diff-", dir=storage.layers.root))
        try:
            for layer in packed:
                trees[layer] = room / layer
                unpack(storage.layers.squashfs(layer), trees[layer])
            yield trees
        finally:
            remove_tree(room)


@contextlib.contextmanager
def _opened(
    storage: Storage, stacks: tuple[Stack, Stack], trees: dict[str, Path], marks: Marks | None = None
) -> Iterator[tuple[OpenStack, OpenStack]]:
    """Open two stacks, to be read with `marks`, or with those of the program that mounts each of them."""
    before, after = ([trees[layer] for layer in stack] for stack in stacks)
    found = [marks_of(storage.layers.path(layer) for layer in stack) if marks is None else marks for stack in stacks]
    with open_both(before, after, (found[0], found[1])) as opened:
        yield opened


def size(storage: Storage, session_id: str) -> Answer:
    """How much disk space a session's volumes and snapshots take: what each alone has, and what it consists of."""
    found = record.load(storage.session(session_id))
    others = set[str]()
    for other_id, other in storage.records():
        if other_id != session_id:
            others |= other.named_layers()
    parts = _parts(found)
    lines = []
    for what, layers in parts.items():
        elsewhere = others.union(*(named for name, named in parts.items() if name != what))
        seen: set[tuple[int, int]] = set()
        for layer in sorted(elsewhere):
            _extent(storage, layer, seen)
        own = sum(_extent(storage, layer, seen)[0] for layer in sorted(layers - elsewhere))
        all_seen: set[tuple[int, int]] = set()
        totals = [_extent(storage, layer, all_seen) for layer in sorted(layers)]
        total, files = sum(each[0] for each in totals), sum(each[1] for each in totals)
        lines.append({"what": what, "own": own, "total": total, "files": files})
    once: set[tuple[int, int]] = set()
    total = sum(_extent(storage, layer, once)[0] for layer in sorted(found.named_layers()))
    room = os.statvfs(storage.root)
    return {"lines": lines, "bytes": total, "free": room.f_bavail * room.f_frsize}


def usage(storage: Storage) -> Answer:
    """How many bytes of disk all layers of a user take, those of deleted sessions that are kept included."""
    seen: set[tuple[int, int]] = set()
    layers = storage.layers.all() if storage.layers.root.is_dir() else []  # of one who has never had a session
    return {"bytes": sum(_extent(storage, layer, seen)[0] for layer in layers)}


def _parts(found: Record) -> dict[str, set[str]]:
    """The layers of each part of a session, by the part's name."""
    parts = {name: {*_now(volume)} for name, volume in (("home", found.home), ("system", found.system))}
    return parts | {f"snapshot {each.number}": {*each.home, *each.system} for each in found.snapshots}


def _extent(storage: Storage, layer: str, seen: set[tuple[int, int]]) -> tuple[int, int]:
    path = storage.layers.path(layer)
    if not path.exists():
        return 0, 0
    found = extent(path, seen)
    return found.bytes, found.files


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
