"""Differences between a session and its profile, or one of its snapshots."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.volumes import record
from broker.volumes.comparison import Depth, compare, open_both
from broker.volumes.drivers import Overlay
from broker.volumes.packages import installed, package_changes
from broker.volumes.packing import has_lists, unpack
from profiles.image.overlayfs import Marks, marks_of
from profiles.local_folder import local_folder
from profiles.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.volumes.image import ImageFiles
    from broker.volumes.record import Record, Stack, Volume
    from broker.volumes.storage import Storage
    from profiles.image.overlayfs import Stack as OpenStack

Answer = dict[str, Any]

MOST_FILES = 5000
"""Changed files that a diff tells of."""
MOST_CHARACTERS = 2**20
"""Of their paths together."""


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
    with record.locked(storage.lock, shared=True):  # or what a layer was replaced by goes before it is read
        found = record.load(storage.session(session_id))
        return {"system_as_of": storage.saved_at(session_id, found)} | _compared(
            storage, found, number, base_packages, image, content=content
        )


def _compared(
    storage: Storage, found: Record, number: int | None, base_packages: str, image: ImageFiles, *, content: bool
) -> Answer:
    """As `diff`, of a session whose layers nobody removes meanwhile."""
    snapshot = None if number is None else found.snapshot(number)
    files: list[dict[str, str]] = []
    characters = 0
    homes = (snapshot.home if snapshot else (), _now(found.home))
    systems = (snapshot.system if snapshot else (), _now(found.system))
    local = {*systems[0], *systems[1]} if found.on_node else set[str]()
    with _unpacked(storage, {*homes[0], *homes[1], *systems[0], *systems[1]}, local) as trees:
        with _opened(storage, systems, trees) as (before, after):
            packages = package_changes(installed(before, base_packages), installed(after, base_packages))
        for volume, stacks in (("home", homes), ("system", systems)):
            # A plain directory is mounted by no overlay: everything in it is content.
            marks = Marks.NONE if volume == "home" and found.driver != Overlay.name else None
            squashed = (storage.layers.squashfs(layer) for stack in stacks for layer in stack)
            packed = [file for file in squashed if file.exists()]
            # Beside layers of an earlier version there is nothing of their access lists.
            depth = Depth(seconds=bool(packed), lists=all(has_lists(path) for path in packed), content=content)
            with _opened(storage, stacks, trees, marks) as (before, after):
                over = image if volume == "system" else None
                for change, path in compare(before, after, over, depth):
                    files.append({"change": change, "volume": volume, "path": printable(path)})
                    characters += len(files[-1]["path"])
                    if len(files) > MOST_FILES or characters > MOST_CHARACTERS:
                        return {"packages": packages, "files": files[:-1], "truncated": True}
    return {"packages": packages, "files": files, "truncated": False}


def printable(path: str) -> str:
    """A path as text that can be sent: bytes that are no UTF-8 become escapes."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _now(volume: Volume) -> Stack:
    return (*volume.layers, *volume.saved, volume.top)


@contextlib.contextmanager
def _unpacked(storage: Storage, layers: set[str], local: set[str]) -> Iterator[dict[str, Path]]:
    """Give the tree of each layer; a layer that is packed is unpacked for the time of the block, one of `local` on
    this machine's disk: a file server need not hold what a node's disk does. The caller holds the storage's lock: else
    `collect` takes what is unpacked for something left behind.
    """
    packed = sorted(layer for layer in layers if storage.layers.squashfs(layer).exists())
    trees = {layer: storage.layers.tree(layer) for layer in layers}
    with _room(storage.layers.root) as room, local_folder() as near:
        for layer in packed:
            trees[layer] = (near if layer in local else room) / layer
            unpack(storage.layers.squashfs(layer), trees[layer])
        yield trees


@contextlib.contextmanager
def _room(layers: Path) -> Iterator[Path]:
    """Make a directory beside the layers for the time of the block; gc removes one that a killed process left."""
    room = Path(tempfile.mkdtemp(prefix=".diff-", dir=layers))
    try:
        yield room
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
