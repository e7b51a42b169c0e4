"""How a volume lies on a file system: three drivers behind one small Protocol.

| driver | a top is | a stack is | a snapshot of a stopped session costs |
|---|---|---|---|
| `overlay` | overlayfs' upper directory | as many layers as were frozen | one rename, whatever the size |
| `reflink` | a plain directory | one complete copy | a new inode a file, no data (XFS, btrfs) |
| `plain` | a plain directory | one complete copy, as zstd squashfs | reading and compressing everything |

The `system` volume is an upper directory over the image with every driver: `reflink` and `plain` keep copies of it as
they keep copies of a home.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from broker.volumes.copying import TREE, Copy, located
from broker.volumes.errors import VolumeError
from broker.volumes.layers import HOME_MODE, SYSTEM_MODE, WORK, extent, require_room
from broker.volumes.program import run
from broker.volumes.record import Volume
from profiles.overlay import FUSE_WRITTEN
from profiles.removal import remove_tree
from profiles.userfile import read_bytes

if TYPE_CHECKING:
    from broker.volumes.layers import Layers
    from broker.volumes.record import Stack

SQUASHFS_THREADS = "4"
SQUASHFS_MEMORY = "256M"
"""Memory of mksquashfs for its queues. Without these two bounds it takes a thread for each processor and a quarter of
the memory. All users share a login node, and the launcher bounds a worker's address space."""
SQUASHFS_LIMIT = 3600
"""Seconds for packing or unpacking one layer."""
ZSTD_LEVEL = "1"
"""Measured with 1 GB in 9,800 files on 2 cores: 4 s, to 38 % of the size; gzip took 80 s."""
UNWRITTEN = "write_xattr"
"""What unsquashfs says if it could not set an attribute."""
ROOT = "root"
"""Beside a packed layer: the access lists of its root, which squashfs cannot hold, as JSON of hexadecimal values."""
ROOT_BYTES = 512 * 1024
"""Limit for this file: two attributes of at most 64 KiB (xattr(7)), in hexadecimal."""
ROOT_LISTS = ("system.posix_acl_access", "system.posix_acl_default")
MODES = {"home": HOME_MODE, "system": SYSTEM_MODE}


class Driver(Protocol):
    """The contract: what is frozen never changes again, and every answer is a value for the session's record. Nothing
    that a record names is touched, so a call that fails or dies half-way has changed nothing; what it left is garbage.
    """

    name: ClassVar[str]
    promises: ClassVar[tuple[str, ...]]
    """What people may count on, and what not, in words."""

    def empty(self, kind: str) -> Volume:
        """Make a new volume with nothing in it; `kind` is `home` or `system`."""

    def freeze(self, kind: str, volume: Volume) -> Stack:
        """Give the content of a volume that nobody writes to as a stack. VolumeError `space`, OSError."""

    def onward(self, kind: str, volume: Volume, frozen: Stack) -> Volume:
        """Give the volume that goes on once what it has is `frozen`: nothing writes to a frozen layer again."""

    def fork(self, kind: str, stack: Stack) -> Volume:
        """Make a new volume with the content of a stack. VolumeError `space`, OSError."""

    def live(self, volume: Volume, layer: str) -> Stack:
        """Tell the stack that a live copy of the volume's top to `layer` is; an empty `layer`: there was nothing."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """A stack under an upper directory; everything in constant time."""

    layers: Layers
    name: ClassVar[str] = "overlay"
    promises: ClassVar[tuple[str, ...]] = (
        "snapshot of a stopped session, rollback and clone take the same time for any number of files",
        "writing through one name of a file with several hard links parts it from the others once it is in a snapshot",
    )

    def empty(self, kind: str) -> Volume:
        return Volume(self.layers.new_top(MODES[kind]))

    def freeze(self, kind: str, volume: Volume) -> Stack:
        untouched = self.layers.is_untouched(volume.top, volume.layers, MODES[kind])
        return volume.layers if untouched else (*volume.layers, volume.top)

    def onward(self, kind: str, volume: Volume, frozen: Stack) -> Volume:
        return volume if volume.top not in frozen else self.fork(kind, frozen)

    def fork(self, kind: str, stack: Stack) -> Volume:
        return Volume(self.layers.new_top(MODES[kind], stack[-1] if stack else ""), stack)

    def live(self, volume: Volume, layer: str) -> Stack:
        return (*volume.layers, layer) if layer else volume.layers


@dataclass(frozen=True, slots=True)
class _Copying(ABC):
    """What the drivers have in common whose tops are plain directories and whose stacks end in a complete copy of one.

    Below it a system volume has what `berth exec --root` made: layers, which its stacks share as overlay's do.
    """

    layers: Layers

    @abstractmethod
    def fork(self, kind: str, stack: Stack) -> Volume:
        """As in Driver."""

    def empty(self, kind: str) -> Volume:
        return Volume(self.layers.new_top(MODES[kind]))

    def onward(self, kind: str, volume: Volume, frozen: Stack) -> Volume:
        del kind, frozen
        return volume

    def live(self, volume: Volume, layer: str) -> Stack:
        return (*volume.layers, layer)

    def copy(self, layer: str, previous: str = "") -> str:
        """Copy a layer that nobody writes to, building on an earlier copy of it; the new one's id."""
        made = self.layers.new()
        copying = Copy(
            str(self.layers.tree(layer)),
            str(self.layers.path(made)),
            str(self.layers.path(previous)) if previous else "",
        )
        try:
            copying.second()
            copying.write_index()
            copying.flush()
        finally:
            copying.close()
        self.mark_alike(layer, made)
        return made

    def mark_alike(self, layer: str, copy: str) -> None:
        """Have a copy mounted as its original is: whoever wrote the one's marks of deletion wrote the other's."""
        if (self.layers.path(layer) / FUSE_WRITTEN).exists():
            (self.layers.path(copy) / FUSE_WRITTEN).touch()

    def as_top(self, layer: str, below: Stack) -> Volume:
        """Make a complete copy writable: overlayfs wants a working directory beside a system volume's."""
        self.layers.path(layer).joinpath(WORK).mkdir(mode=0o700)
        return Volume(layer, below)


class Reflink(_Copying):
    """Complete copies that share their blocks until one of them is written to (ioctl_ficlone(2))."""

    name: ClassVar[str] = "reflink"
    promises: ClassVar[tuple[str, ...]] = (
        "a copy shares its data with what it was copied from; the time grows with the number of files, not their size",
        "hard links, time stamps and everything else are kept exactly",
    )

    def freeze(self, kind: str, volume: Volume) -> Stack:
        del kind
        return (*volume.layers, self.copy(volume.top, volume.copied))

    def fork(self, kind: str, stack: Stack) -> Volume:
        return self.as_top(self.copy(stack[-1]), stack[:-1]) if stack else self.empty(kind)


class Plain(_Copying):
    """Plain directories, and snapshots of them packed as zstd squashfs: for file systems that can do nothing better."""

    name: ClassVar[str] = "plain"
    promises: ClassVar[tuple[str, ...]] = (
        "snapshot, rollback and clone copy everything, packed; their time grows with the size",
        "time stamps are kept to the second, as squashfs does",
    )

    def freeze(self, kind: str, volume: Volume) -> Stack:
        del kind
        tree = self.layers.tree(volume.top)
        require_room(tree, extent(tree).bytes)
        made = self.layers.new()
        bounds = ["-processors", SQUASHFS_THREADS, "-mem", SQUASHFS_MEMORY]
        settings = ["-comp", "zstd", "-Xcompression-level", ZSTD_LEVEL, "-all-root", "-xattrs"]
        # Without the last one, a file that cannot be read is packed as an empty one, and all seems well.
        quietly = ["-noappend", "-no-progress", "-quiet", "-no-recovery", "-exit-on-error"]
        try:
            _squash("mksquashfs", str(tree), str(self.layers.squashfs(made)), *settings, *bounds, *quietly)
        except VolumeError as error:
            if error.kind == "files" and (path := _unreadable(tree)):
                raise located(PermissionError(errno.EACCES, ""), path) from error
            raise
        self.mark_alike(volume.top, made)
        lists = {name: value.hex() for name in ROOT_LISTS if (value := _attribute(tree, name))}
        (self.layers.path(made) / ROOT).write_text(json.dumps(lists))
        self.layers.flush()
        return (*volume.layers, made)

    def fork(self, kind: str, stack: Stack) -> Volume:
        if not stack:
            return self.empty(kind)
        packed = self.layers.squashfs(stack[-1])
        if not packed.exists():  # a live copy
            return self.as_top(self.copy(stack[-1]), stack[:-1])
        top = self.layers.new()
        unpack(packed, self.layers.tree(top))
        for name, value in _noted_lists(self.layers.path(stack[-1]) / ROOT).items():
            os.setxattr(self.layers.tree(top), name, value)
        self.layers.flush()
        self.mark_alike(stack[-1], top)
        return self.as_top(top, stack[:-1])


def _noted_lists(path: Path) -> dict[str, bytes]:
    """Return the access lists that were noted beside a packed layer. VolumeError `files` for a damaged file."""
    try:
        lists = json.loads(read_bytes(path, ROOT_BYTES))
        return {name: bytes.fromhex(lists[name]) for name in ROOT_LISTS if name in lists}
    except FileNotFoundError:  # the layer is older than this file
        return {}
    except (ValueError, TypeError) as error:
        raise VolumeError("files", f"{path} is damaged") from error


def _unreadable(tree: Path) -> bytes:
    """Return the place in a tree of something that its owner may not read; nothing if there is no such thing.

    As root of a user namespace, as mksquashfs runs: on a local disk that reads everything.
    """
    wanted = ["(", "-type", "f", "!", "-readable", "-o", "-type", "d", "!", "(", "-readable", "-executable", ")", ")"]
    command = ["unshare", "--map-root-user", "--", "find", str(tree), *wanted, "-printf", "%P", "-quit"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return run(command, timeout=SQUASHFS_LIMIT).stdout
    return b""


def _attribute(path: Path, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError:  # it has none, or its file system knows none
        return b""


DRIVERS: dict[str, type[Overlay | Reflink | Plain]] = {driver.name: driver for driver in (Overlay, Reflink, Plain)}


def driver_named(name: str, layers: Layers) -> Driver:
    """VolumeError `invalid` for a name that is none."""
    if name not in DRIVERS:
        raise VolumeError("invalid", f"{name!r} is no driver: {', '.join(DRIVERS)}")
    return DRIVERS[name](layers)


def unpack(squashfs: Path, target: Path) -> None:
    """Unpack a layer of the plain driver into the new directory `target`. VolumeError `space`, `files`; OSError."""
    try:
        _unpack(squashfs, target)
    except VolumeError as error:
        if UNWRITTEN not in str(error):
            raise
        remove_tree(target)
        _unpack_by_way_of_a_local_disk(squashfs, target)


def _unpack_by_way_of_a_local_disk(squashfs: Path, target: Path) -> None:
    """As `unpack`, where unsquashfs cannot: it gives a file its attributes when that is read-only already.

    A file server refuses that, and a local disk does not. The way on from there is Copy's, which gives modes last.
    """
    local = Path(tempfile.mkdtemp(prefix="berth-unpack-"))
    room = Path(tempfile.mkdtemp(prefix=".diff-", dir=target.parent))
    try:
        _unpack(squashfs, local / TREE)
        copy = Copy(str(local / TREE), str(room))
        try:
            copy.require_room()
            copy.second()
        finally:
            copy.close()
        (room / TREE).rename(target)
    finally:
        remove_tree(local)
        remove_tree(room)


def _unpack(squashfs: Path, target: Path) -> None:
    require_room(target.parent, squashfs.stat().st_size * 2)
    where = ["-dest", str(target), str(squashfs)]
    _squash("unsquashfs", "-quiet", "-no-progress", "-processors", SQUASHFS_THREADS, "-xattrs", *where)


def _squash(*command: str) -> None:
    """Run squashfs-tools as root of one's own files: only as root do they make marks of deletion, which all may."""
    argv = ["unshare", "--map-root-user", "--", *command]
    try:
        done = run(argv, timeout=SQUASHFS_LIMIT, env=os.environ | {"MALLOC_ARENA_MAX": "2"})
    except subprocess.TimeoutExpired as error:
        raise VolumeError("files", f"{command[0]} did not end within {SQUASHFS_LIMIT} s") from error
    except FileNotFoundError as error:
        raise VolumeError("files", "unshare is not installed (util-linux)") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[
            -500:
        ] or f"{command[0]} ended with {done.returncode}"
        full = "No space left" in words or "quota" in words.lower()
        raise VolumeError("space" if full else "files", words)
