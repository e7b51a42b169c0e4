"""Differences between a session and its profile, or one of its snapshots."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.volumes import files, record
from broker.volumes.comparison import ComparisonDepth, compare_stacks, open_stacks
from broker.volumes.drivers import OverlayDriver
from broker.volumes.own_system import own_changes
from broker.volumes.packages import installed_packages, package_changes
from broker.volumes.squashfs import has_access_lists, unpack_layer
from profiles.image.overlayfs import Marks, detect_marks
from profiles.local_folder import local_folder
from profiles.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.volumes.image import ImageFiles
    from broker.volumes.record import Record, Snapshot, Stack, Volume
    from broker.volumes.storage import Storage
    from profiles.image.overlayfs import OpenStack

Answer = dict[str, Any]

MAX_FILES = 5000
"""Changed files that a diff returns."""
MAX_CHARACTERS = 2**20
"""Limit for the characters of their paths together."""


def diff(
    storage: Storage,
    session_id: str,
    number: int | None,
    *,
    until: int | None = None,
    base_packages: str = "",
    image: ImageFiles,
    content: bool = False,
    own: bool = False,
) -> Answer:
    """Compare the present content of a session, or of the snapshot `until`, with its profile or with a snapshot.

    `base_packages` is the image's packages.txt. At most MAX_FILES files are returned. Compared with a profile, all
    files of a home are new. With `content`, files with equal metadata are read. With `own`, only the user's own
    changes of the system are listed.
    """
    with files.file_lock(storage.lock, shared=True):  # or what a layer was replaced by goes before it is read
        found = record.load_record(storage.session(session_id))
        before = _EMPTY if number is None else _stacks_of(found.snapshot(number))
        after = _present_stacks(found) if until is None else _stacks_of(found.snapshot(until))
        saved_at = storage.read_save_time(session_id, found) if until is None else None
        if own:
            return {"system_as_of": saved_at} | _own_changes(storage, found, after.system, base_packages, image)
        return {"system_as_of": saved_at} | _compare(
            storage, found, (before, after), base_packages, image, content=content
        )


class _Stacks(NamedTuple):
    """The stacks of one state of a session."""

    home: Stack
    system: Stack


_EMPTY = _Stacks((), ())
"""The stacks of a session that has changed nothing of its profile."""


def _stacks_of(snapshot: Snapshot) -> _Stacks:
    return _Stacks(snapshot.home, snapshot.system)


def _present_stacks(found: Record) -> _Stacks:
    return _Stacks(_present_stack(found.home), _present_stack(found.system))


def _compare(
    storage: Storage,
    found: Record,
    states: tuple[_Stacks, _Stacks],
    base_packages: str,
    image: ImageFiles,
    *,
    content: bool,
) -> Answer:
    """Do as `diff`, for a session whose layers no operation removes meanwhile."""
    files: list[dict[str, str]] = []
    characters = 0
    homes = (states[0].home, states[1].home)
    systems = (states[0].system, states[1].system)
    local = {*systems[0], *systems[1]} if found.on_node else set[str]()
    with _unpacked_trees(storage, {*homes[0], *homes[1], *systems[0], *systems[1]}, local) as trees:
        with _open_stacks(storage, systems, trees) as (before, after):
            packages = package_changes(
                installed_packages(before, base_packages), installed_packages(after, base_packages)
            )
        for volume, stacks in (("home", homes), ("system", systems)):
            # A plain directory is mounted by no overlay: everything in it is content.
            marks = Marks.NONE if volume == "home" and found.driver != OverlayDriver.name else None
            squashed = (storage.layers.squashfs(layer) for stack in stacks for layer in stack)
            packed = [file for file in squashed if file.exists()]
            # Beside layers of an earlier version there is nothing of their access lists.
            depth = ComparisonDepth(
                seconds=bool(packed), lists=all(has_access_lists(path) for path in packed), content=content
            )
            with _open_stacks(storage, stacks, trees, marks) as (before, after):
                over = image if volume == "system" else None
                for change, path in compare_stacks(before, after, over, depth):
                    files.append({"change": change, "volume": volume, "path": printable_path(path)})
                    characters += len(files[-1]["path"])
                    if len(files) > MAX_FILES or characters > MAX_CHARACTERS:
                        return {"packages": packages, "files": files[:-1], "truncated": True}
    return {"packages": packages, "files": files, "truncated": False}


def _own_changes(storage: Storage, found: Record, system: Stack, base_packages: str, image: ImageFiles) -> Answer:
    """Do as `diff` with `own`, for a session whose layers no operation removes meanwhile."""
    local = set(system) if found.on_node else set[str]()
    with (
        _unpacked_trees(storage, set(system), local) as trees,
        _open_stacks(storage, ((), system), trees) as (before, after),
    ):
        answer = own_changes(before, after, base_packages, image)
    return answer | {"files": [each | {"path": printable_path(each["path"])} for each in answer["files"]]}


def printable_path(path: str) -> str:
    """Return a path as text that can be sent: bytes that are no UTF-8 become escapes."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _present_stack(volume: Volume) -> Stack:
    return (*volume.layers, *volume.saved, volume.top)


@contextlib.contextmanager
def _unpacked_trees(storage: Storage, layers: set[str], local: set[str]) -> Iterator[dict[str, Path]]:
    """Give the tree of each layer; a layer that is packed is unpacked for the time of the block, one of `local` on
    this machine's disk: a file server need not hold what a node's disk does. The caller holds the storage's lock: else
    garbage collection removes what is unpacked.
    """
    packed = sorted(layer for layer in layers if storage.layers.squashfs(layer).exists())
    trees = {layer: storage.layers.tree(layer) for layer in layers}
    with _temporary_folder(storage.layers.root) as room, local_folder() as near:
        for layer in packed:
            trees[layer] = (near if layer in local else room) / layer
            unpack_layer(storage.layers.squashfs(layer), trees[layer])
        yield trees


@contextlib.contextmanager
def _temporary_folder(layers: Path) -> Iterator[Path]:
    """Make a directory beside the layers for the time of the block; gc removes one that a killed process left."""
    room = Path(tempfile.mkdtemp(prefix=".diff-", dir=layers))
    try:
        yield room
    finally:
        remove_tree(room)


@contextlib.contextmanager
def _open_stacks(
    storage: Storage, stacks: tuple[Stack, Stack], trees: dict[str, Path], marks: Marks | None = None
) -> Iterator[tuple[OpenStack, OpenStack]]:
    """Open two stacks, to be read with `marks`, or with those of the program that mounts each of them."""
    before, after = ([trees[layer] for layer in stack] for stack in stacks)
    found = [
        detect_marks(storage.layers.path(layer) for layer in stack) if marks is None else marks for stack in stacks
    ]
    with open_stacks(before, after, (found[0], found[1])) as opened:
        yield opened
