"""Storage drivers of volumes: three drivers behind one small Protocol.

The content on disk, and the cost of a snapshot, by driver:

| driver | a top is | a stack is | a snapshot of a stopped session costs |
|---|---|---|---|
| `overlay` | overlayfs' upper directory | as many layers as were frozen | one rename, for any size |
| `reflink` | a plain directory | one complete copy | a new inode a file, no data (XFS, btrfs) |
| `plain` | a plain directory | one complete copy, as zstd squashfs | reading and compressing everything |

The `system` volume is an upper directory over the image with every driver: `reflink` and `plain` keep copies of it as
they keep copies of a home.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from broker.volumes.errors import VolumeError
from broker.volumes.layers import HOME_MODE, SYSTEM_MODE, WORK
from broker.volumes.live_copy import copy_tree
from broker.volumes.record import Volume
from broker.volumes.squashfs import pack_layer, unpack_layer
from profiles.image.overlayfs import FUSE_WRITTEN

if TYPE_CHECKING:
    from broker.volumes.layers import Layers
    from broker.volumes.record import Stack

MODES = {"home": HOME_MODE, "system": SYSTEM_MODE}


class Driver(Protocol):
    """The contract of a driver. A frozen layer never changes again, and every result is a value for the session's
    record.

    A driver does not touch anything that a record names. So a call that fails half-way has changed nothing, and leaves
    only garbage.
    """

    @property
    def name(self) -> str:
        """One of DRIVERS."""

    @property
    def promises(self) -> tuple[str, ...]:
        """Properties that users may count on, and limits, as sentences."""

    def make_volume(self, kind: str) -> Volume:
        """Make a new volume with nothing in it; `kind` is `home` or `system`."""

    def freeze(self, kind: str, volume: Volume) -> Stack:
        """Return the content of a volume without writers as a stack. VolumeError `space`, OSError."""

    def continue_from(self, kind: str, volume: Volume, frozen: Stack) -> Volume:
        """Return the volume that continues after its content is `frozen`: nothing writes to a frozen layer again."""

    def fork(self, kind: str, stack: Stack) -> Volume:
        """Make a new volume with the content of a stack. VolumeError `space`, OSError."""

    def adopt(self, kind: str, layer: str) -> Volume:
        """Make a new volume with the content of a complete layer that nothing else names."""

    def live_stack(self, kind: str, volume: Volume, layer: str) -> Stack:
        """Return the stack of a live copy of the volume's top in `layer`. An empty `layer` means that the top was
        empty.
        """


@dataclass(frozen=True, slots=True)
class OverlayDriver:
    """A stack under an upper directory. Every operation takes constant time."""

    layers: Layers
    name: ClassVar[str] = "overlay"
    promises: ClassVar[tuple[str, ...]] = (
        "snapshot of a stopped session, rollback and clone take the same time for any number of files",
        "once a file with several hard links is in a snapshot, writing through one name separates it from the others",
    )

    def make_volume(self, kind: str) -> Volume:
        return Volume(self.layers.new_top(MODES[kind]))

    def freeze(self, kind: str, volume: Volume) -> Stack:
        untouched = self.layers.is_untouched(volume.top, volume.layers, MODES[kind])
        return volume.layers if untouched else (*volume.layers, volume.top)

    def continue_from(self, kind: str, volume: Volume, frozen: Stack) -> Volume:
        return volume if volume.top not in frozen else self.fork(kind, frozen)

    def fork(self, kind: str, stack: Stack) -> Volume:
        return Volume(self.layers.new_top(MODES[kind], stack[-1] if stack else ""), stack)

    def adopt(self, kind: str, layer: str) -> Volume:
        return self.fork(kind, (layer,))

    def live_stack(self, kind: str, volume: Volume, layer: str) -> Stack:
        del kind
        return (*volume.layers, layer) if layer else volume.layers


@dataclass(frozen=True, slots=True)
class _CopyDriver(ABC):
    """Common part of the drivers whose tops are plain directories, and whose stacks end with a complete copy of one.

    Below that copy a system volume has the layers of `berth exec --root`, which its stacks share as with overlay.
    """

    layers: Layers

    @abstractmethod
    def fork(self, kind: str, stack: Stack) -> Volume:
        """As in Driver."""

    def make_volume(self, kind: str) -> Volume:
        return Volume(self.layers.new_top(MODES[kind]))

    def continue_from(self, kind: str, volume: Volume, frozen: Stack) -> Volume:
        del kind, frozen
        return volume

    def adopt(self, kind: str, layer: str) -> Volume:
        del kind
        return self.make_top(layer, ())

    def live_stack(self, kind: str, volume: Volume, layer: str) -> Stack:
        del kind
        return (*volume.layers, layer)

    def copy(self, layer: str, previous: str = "") -> str:
        """Copy a layer without writers, based on an earlier copy of it, and return the id of the new layer."""
        made = self.layers.new_layer()
        below = str(self.layers.path(previous)) if previous else ""
        copy_tree(str(self.layers.tree(layer)), str(self.layers.path(made)), below)
        self.copy_fuse_mark(layer, made)
        return made

    def copy_fuse_mark(self, layer: str, copy: str) -> None:
        """Let a copy be mounted like its original, since it has the same kind of deletion marks."""
        if (self.layers.path(layer) / FUSE_WRITTEN).exists():
            (self.layers.path(copy) / FUSE_WRITTEN).touch()

    def make_top(self, layer: str, below: Stack) -> Volume:
        """Make a complete copy writable: overlayfs wants a working directory beside a system volume's."""
        self.layers.path(layer).joinpath(WORK).mkdir(mode=0o700)
        return Volume(layer, below)


class ReflinkDriver(_CopyDriver):
    """Complete copies that share their blocks until one of them is changed (ioctl_ficlone(2))."""

    name: ClassVar[str] = "reflink"
    promises: ClassVar[tuple[str, ...]] = (
        "a copy shares its data with what it was copied from; the time grows with the number of files, not their size",
        "hard links, time stamps and everything else are kept exactly",
    )

    def freeze(self, kind: str, volume: Volume) -> Stack:
        del kind
        return (*volume.layers, self.copy(volume.top, volume.copied))

    def fork(self, kind: str, stack: Stack) -> Volume:
        return self.make_top(self.copy(stack[-1]), stack[:-1]) if stack else self.make_volume(kind)


class PlainDriver(_CopyDriver):
    """Plain directories, and snapshots of them packed as zstd squashfs: where a file system has no better way."""

    name: ClassVar[str] = "plain"
    promises: ClassVar[tuple[str, ...]] = (
        "snapshot, rollback and clone copy everything, packed; their time grows with the size",
        "time stamps are kept to the second, as squashfs does; access lists, holes and hard links are kept",
    )

    def freeze(self, kind: str, volume: Volume) -> Stack:
        del kind
        tree = self.layers.tree(volume.top)
        made = self.layers.new_layer()
        pack_layer(tree, self.layers.path(made))
        self.copy_fuse_mark(volume.top, made)
        self.layers.flush()
        return (*volume.layers, made)

    def fork(self, kind: str, stack: Stack) -> Volume:
        if not stack:
            return self.make_volume(kind)
        packed = self.layers.squashfs(stack[-1])
        if not packed.exists():  # a live copy
            return self.make_top(self.copy(stack[-1]), stack[:-1])
        top = self.layers.new_layer()
        unpack_layer(packed, self.layers.tree(top))
        self.layers.flush()
        self.copy_fuse_mark(stack[-1], top)
        return self.make_top(top, stack[:-1])


DRIVERS: dict[str, type[OverlayDriver | ReflinkDriver | PlainDriver]] = {
    driver.name: driver for driver in (OverlayDriver, ReflinkDriver, PlainDriver)
}


class NodeDiskDriver:
    """A driver whose system volumes have their top on the node's disk while a job runs (ADR 120).

    Each save of a job is a packed layer, which later jobs mount. So a system volume is a stack, as with `overlay`, and
    nothing writes to its top on the shared file system.
    """

    def __init__(self, home: Driver, layers: Layers) -> None:
        self.name = home.name
        self.promises = home.promises
        self._home = home
        self._system = OverlayDriver(layers)

    def make_volume(self, kind: str) -> Volume:
        """As in Driver."""
        return self._home.make_volume(kind)

    def freeze(self, kind: str, volume: Volume) -> Stack:
        """As in Driver."""
        return (*volume.layers, *volume.saved) if kind == "system" else self._home.freeze(kind, volume)

    def continue_from(self, kind: str, volume: Volume, frozen: Stack) -> Volume:
        """As in Driver."""
        if kind != "system":
            return self._home.continue_from(kind, volume, frozen)
        return self._system.fork(kind, frozen) if volume.saved else volume

    def fork(self, kind: str, stack: Stack) -> Volume:
        """As in Driver."""
        return (self._system if kind == "system" else self._home).fork(kind, stack)

    def adopt(self, kind: str, layer: str) -> Volume:
        """As in Driver."""
        return (self._system if kind == "system" else self._home).adopt(kind, layer)

    def live_stack(self, kind: str, volume: Volume, layer: str) -> Stack:
        """As in Driver."""
        return (
            (*volume.layers, *volume.below, layer) if kind == "system" else self._home.live_stack(kind, volume, layer)
        )


def get_driver(name: str, layers: Layers, *, on_node: bool = False) -> Driver:
    """Return the driver called `name`. VolumeError `invalid` if there is none."""
    if name not in DRIVERS:
        raise VolumeError("invalid", f"{name!r} is no driver: {', '.join(DRIVERS)}")
    driver = DRIVERS[name](layers)
    return NodeDiskDriver(driver, layers) if on_node else driver
