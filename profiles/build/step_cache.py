"""The cache of steps: the layer of each finished step of the user's builds, by the step's key, on a local disk.

Builds that use the cache at once share it. A layer arrives by one rename, and leaves while no build uses the cache. A
layer counts only if it belongs to this user and still has the seal that it got when it was complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.build import namespace
from profiles.build.command import CommandFailed
from profiles.build.layer_seal import LayerSeal, seal_of
from profiles.build.layer_stack import LAYER_TREE, can_stack
from profiles.build.workspace import free_bytes
from profiles.userfile import read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.build.command import ProgramRunner

CACHE_PREFIX = "berth-steps-"
RECORD = "layer.json"
MAX_RECORD_BYTES = 4 << 20
MAX_CACHE_AGE_S = 86400.0
"""Seconds after which a layer is made again: a new image has packages of the last day."""
DEFAULT_CACHE_BYTES = 10 << 30
WANTED_ROOM_BYTES = 6 << 30
"""Free bytes below which the layers make room for a build."""
_KEY_DIGITS = 32
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """The layer of a finished step: a directory with a `tree` and a record."""

    folder: Path
    step: str
    seal: LayerSeal
    note: str
    """The results of this step that later steps need."""
    made: float
    """Seconds since the epoch."""

    @property
    def is_fresh(self) -> bool:
        return 0 <= time.time() - self.made < MAX_CACHE_AGE_S


class StepCache:
    """The layers in `folder`, which belongs to this user alone. Use it while BuildCache has it open."""

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._folder = folder
        self._limit = limit_bytes

    def find(self, key: str, run: ProgramRunner) -> CachedLayer | None:
        """Return the layer with this key; None if there is none that is whole. A damaged one is put aside."""
        place = self._folder / key[:_KEY_DIGITS]
        layer = _read_layer(place)
        if layer is None or not layer.is_fresh:
            return None
        try:
            is_whole = seal_of(layer.folder / LAYER_TREE, run) == layer.seal
        except (CommandFailed, ValueError):
            is_whole = False
        if is_whole:
            os.utime(place)
            return layer
        self._put_aside(place)
        return None

    def keep(self, key: str, made: Path, *, step: str, note: str, run: ProgramRunner) -> Path:
        """Take the directory `made` with a step's tree into the cache, and return its new place.

        If another build was faster, its layer stays, and `made` where it is. Raises OSError, and what `run` raises.
        """
        seal = seal_of(made / LAYER_TREE, run)
        record = {"step": step, "seal": asdict(seal), "note": note, "made": time.time()}
        (made / RECORD).write_text(json.dumps(record))
        place = self._folder / key[:_KEY_DIGITS]
        if _read_layer(place) is None:
            self._put_aside(place)
        try:
            made.rename(place)
        except OSError:
            return made
        return place

    def trim(self, *, spare_bytes: int = 0) -> None:
        """Remove what is damaged, too old or above the limit, oldest use first, until `spare_bytes` are free.

        No build may use the cache.
        """
        layers = list[tuple[float, int, Path]]()
        for place in self._folder.iterdir():
            if place.name == "lock":
                continue
            layer = _read_layer(place)
            used = place.lstat().st_mtime
            if layer is None or not layer.is_fresh:
                namespace.remove_as_root(place)
            else:
                layers.append((used, layer.seal.size, place))
        total = sum(size for _, size, _ in layers)
        for _, size, place in sorted(layers):
            if total <= self._limit and free_bytes(self._folder) >= spare_bytes:
                break
            namespace.remove_as_root(place)
            total -= size

    def _put_aside(self, place: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # another build was faster
            place.rename(self._folder / f".{place.name}.{secrets.token_hex(4)}")


@dataclass(frozen=True, slots=True)
class BuildCache:
    """The settings of the cache of a build's steps."""

    is_used: bool = True
    """Whether steps that earlier builds have run are not run again. It counts for buildah's own cache too."""
    limit_bytes: int = DEFAULT_CACHE_BYTES
    """Bytes on the disk that the layers may keep after a build."""

    @contextlib.contextmanager
    def open(self, parent: Path, room: Path, run: ProgramRunner) -> Iterator[StepCache | None]:
        """Open the user's cache below `parent` for the time of the block. `room` is the build's own directory there.

        Before and after, the cache is trimmed if no build uses it. None if it cannot be used: another user may change
        it, `parent` is in memory, or the kernel cannot mount layers there.
        """
        folder = parent / f"{CACHE_PREFIX}{os.geteuid()}"
        is_wanted = self.is_used and self.limit_bytes > 0 and not _is_in_memory(parent)
        if not (is_wanted and _is_private(folder) and can_stack(room / "probe", run)):
            yield None
            return
        cache = StepCache(folder, self.limit_bytes)
        with (folder / "lock").open("a+b") as lock:
            _trim_alone(cache, lock.fileno(), WANTED_ROOM_BYTES)
            fcntl.flock(lock, fcntl.LOCK_SH)
            try:
                yield cache
            finally:
                _trim_alone(cache, lock.fileno(), 0)


DEFAULT_CACHE = BuildCache()


def _trim_alone(cache: StepCache, lock: int, spare_bytes: int) -> None:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cache.trim(spare_bytes=spare_bytes)


def _read_layer(place: Path) -> CachedLayer | None:
    """Return the layer in a directory of this user's; None if it is none, or not complete."""
    try:
        is_tree = stat.S_ISDIR((place / LAYER_TREE).lstat().st_mode)
        if place.name.startswith(".") or not _is_own_directory(place) or not is_tree:
            return None
        record = json.loads(read_bytes(place / RECORD, MAX_RECORD_BYTES))
        seal = LayerSeal(str(record["seal"]["digest"]), int(record["seal"]["size"]))
        return CachedLayer(place, str(record["step"]), seal, str(record["note"]), float(record["made"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_own_directory(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _is_private(folder: Path) -> bool:
    """Make the directory, and return whether only this user can open it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    return _is_own_directory(folder) and not folder.lstat().st_mode & 0o077


def _is_in_memory(folder: Path) -> bool:
    """Whether a directory takes the machine's memory instead of a disk: proc_pid_mountinfo(5)."""
    number = folder.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == device:
            return kind.split()[0] in _IN_MEMORY
    return False
