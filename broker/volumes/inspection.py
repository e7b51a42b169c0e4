"""What is in volumes: what has changed, how much there is, and whether it is still what was written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.volumes import record
from broker.volumes.copying import TREE
from broker.volumes.layers import SQUASHFS, extent
from broker.volumes.packages import installed, package_changes
from broker.volumes.packing import unpack
from profiles.overlay import FUSE_WRITTEN, is_opaque, is_whiteout, merged
from profiles.userfile import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.volumes.image import ImageFiles
    from broker.volumes.record import Record, Stack, Volume
    from broker.volumes.storage import Storage

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


@dataclass(frozen=True, slots=True)
class State:
    """What a stack shows at one path, as far as a comparison needs it."""

    kind: str
    mode: int
    size: int
    mtime_ns: int
    target: str
    inode: tuple[int, int]

    def same(self, other: State, *, seconds: bool) -> bool:
        """Whether nothing of it has changed; a folder's size and times are its entries' business.

        With `seconds` times are compared no finer than squashfs keeps them.
        """
        if self.inode == other.inode:
            return True
        unit = 10**9 if seconds else 1
        times = (self.mtime_ns // unit, other.mtime_ns // unit)
        if (self.kind, self.mode) != (other.kind, other.mode):
            return False
        return self.kind == "directory" or (
            times[0] == times[1] and (self.size, self.target) == (other.size, other.target)
        )


class View:
    """What a stack of layers shows, looked up path by path; the newest layer first."""

    def __init__(self, trees: list[Path], *, by_fuse: bool, seconds: bool) -> None:
        self.trees = trees
        """Oldest first."""
        self.by_fuse = by_fuse
        self.seconds = seconds
        """Whether its times are whole seconds."""

    def mentioned(self, above: int) -> set[str]:
        """Every path that the trees from number `above` on say anything about; a folder that is gone is one path."""
        return {entry.path for entry in merged(self.trees[above:], whiteout_files=self.by_fuse)}

    def state(self, path: str, image: ImageFiles | None) -> State | None:
        """What is at a path where the stack lies over `image`; None for nothing."""
        parts = path.split("/")
        for tree in reversed(self.trees):
            found = self._in_layer(tree, parts)
            if found is not _UNKNOWN:
                return found if isinstance(found, State) else None
        return _OF_IMAGE if image is not None and image.has(path) else None

    def _in_layer(self, tree: Path, parts: list[str]) -> State | str | None:
        """What one layer says of a path: its state, None for a deletion, _UNKNOWN if the layers below decide."""
        hides = False
        place = tree
        for index, part in enumerate(parts):
            place /= part
            try:
                status = place.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None if hides else _UNKNOWN
            if is_whiteout(status):
                return None
            if index == len(parts) - 1:
                return _state(place, status)
            if not stat.S_ISDIR(status.st_mode):
                return None
            hides = hides or is_opaque(place, whiteout_files=self.by_fuse)
        return _UNKNOWN


_UNKNOWN = "unknown"
_OF_IMAGE = State("image", 0, 0, 0, "", (0, 0))  # no inode of a layer's: there is no device 0:0
"""What no layer says anything of, and the image has."""


def _state(place: Path, status: os.stat_result) -> State:
    mode = status.st_mode
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}.get(stat.S_IFMT(mode), "other")
    target = str(place.readlink()) if kind == "symlink" else ""
    inode = (status.st_dev, status.st_ino)
    return State(kind, stat.S_IMODE(mode), status.st_size, status.st_mtime_ns, target, inode)


def diff(
    storage: Storage,
    session_id: str,
    number: int | None,
    *,
    base_packages: str = "",
    image: ImageFiles,
) -> Answer:
    """What a session has now that its profile, or one of its snapshots, did not have.

    `base_packages` is the image's packages.txt. Files are told up to MOST_FILES; those of a home in comparison with a
    profile are all of it.
    """
    found = record.load(storage.session(session_id))
    snapshot = None if number is None else found.snapshot(number)
    system_then: Stack = snapshot.system if snapshot else ()
    packages = package_changes(
        installed(_trees(storage, system_then), base_packages),
        installed(_trees(storage, _now(found.system)), base_packages),
    )
    files: list[dict[str, str]] = []
    characters = 0
    homes = (snapshot.home if snapshot else (), _now(found.home))
    for volume, (then, now) in (("home", homes), ("system", (system_then, _now(found.system)))):
        with _opened(storage, then) as before, _opened(storage, now) as after:
            for change, path in _changes(before, after, image if volume == "system" else None):
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


def _trees(storage: Storage, stack: Stack) -> list[Path]:
    return [storage.layers.tree(layer) for layer in stack]


@contextlib.contextmanager
def _opened(storage: Storage, stack: Stack) -> Iterator[View]:
    """What a stack shows, to be read; a layer that is packed is unpacked for the time of the block."""
    by_fuse = any((storage.layers.path(layer) / FUSE_WRITTEN).exists() for layer in stack)
    packed = [layer for layer in stack if storage.layers.squashfs(layer).exists()]
    with (
        record.locked(storage.lock, shared=True),  # or `collect` takes it for something left behind
        tempfile.TemporaryDirectory(prefix=".diff-", dir=storage.layers.root, ignore_cleanup_errors=True) as room,
    ):
        for layer in packed:
            unpack(storage.layers.squashfs(layer), Path(room, layer))
        trees = [Path(room, layer) if layer in packed else storage.layers.tree(layer) for layer in stack]
        yield View(trees, by_fuse=by_fuse, seconds=bool(packed))


def _changes(before: View, after: View, image: ImageFiles | None) -> Iterator[tuple[str, str]]:
    """Yield `A`, `M` or `D` and the path for what two stacks show differently; `image` lies below both."""
    common = 0
    while common < min(len(before.trees), len(after.trees)) and before.trees[common] == after.trees[common]:
        common += 1
    seconds = before.seconds or after.seconds
    for path in sorted(before.mentioned(common) | after.mentioned(common), key=os.fsencode):
        old, new = before.state(path, image), after.state(path, image)
        if old is None or new is None:
            if old is not new:
                yield ("D" if new is None else "A"), path
        elif old is new or (_OF_IMAGE in (old, new) and "directory" in (old.kind, new.kind)):
            continue  # a folder of the image that only holds what has changed
        elif not old.same(new, seconds=seconds):
            yield "M", path


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
