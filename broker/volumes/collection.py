"""The end of sessions and layers: deletion with a grace time, and removal of what no record names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.failpoints import failpoint
from broker.volumes import record
from broker.volumes.errors import VolumeError
from broker.volumes.layers import extent, remove_tree
from broker.volumes.operations import facts
from broker.volumes.record import locked, sync

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from broker.volumes.storage import Storage

Answer = dict[str, Any]


def trash(storage: Storage, session_id: str) -> Answer:
    """Put a session without a job aside, whole, by one rename; done already is done. VolumeError `busy`."""
    directory = storage.session(session_id)
    if not directory.exists():
        return {}
    (directory / "run").mkdir(mode=0o700, exist_ok=True)
    with (
        locked(storage.lock, shared=True),
        locked(directory / "volumes.lock"),
        locked(directory / "run/lock", wait=False, whose="a job"),
    ):
        storage.trash(session_id).parent.mkdir(mode=0o700, exist_ok=True)
        directory.rename(storage.trash(session_id))
        sync(directory.parent)
        sync(storage.trash(session_id).parent)
    failpoint("trash.moved")
    return {}


def untrash(storage: Storage, session_id: str) -> Answer:
    """Bring a session back that was put aside; what its volumes are. VolumeError `missing`."""
    directory, aside = storage.session(session_id), storage.trash(session_id)
    with locked(storage.lock, shared=True):
        if not directory.exists():
            if not aside.exists():
                raise VolumeError("missing", f"the data of {session_id} is not there any more")
            found = record.load(aside)
            storage.layers.check(found.named_layers())
            aside.rename(directory)
            sync(aside.parent)
            sync(directory.parent)
        failpoint("untrash.moved")
        return {"volumes": facts(storage, record.load(directory))}


def purge(storage: Storage, session_id: str) -> Answer:
    """Remove a session for good, with the layers that only it names; done already is done."""
    for directory in (storage.session(session_id), storage.trash(session_id)):
        _remove(directory)
    if storage.layers.root.is_dir():
        collect(storage)
    return {}


def collect(storage: Storage, *, dry_run: bool = False, over: Collection[str] = ()) -> Answer:
    """Remove the layers that no record names; which, and their bytes.

    Deleted sessions that are `over`, by their ids, go first. VolumeError, and nothing is removed, if a record cannot
    be read. Waits for operations under way, whose layers have no names yet, and holds them up only until it knows
    what is to go.
    """
    layers = storage.layers
    with locked(storage.lock):
        aside = sorted(set(storage.set_aside()) & set(over))
        named = set[str]()
        for session_id, found in storage.records():
            if session_id not in aside:
                named |= found.named_layers() | storage.job_tops(session_id)
        unnamed = [layer for layer in layers.all() if layer not in named]
        if not dry_run:
            for session_id in aside:
                _remove(storage.trash(session_id))
            for layer in unnamed:
                failpoint("collect.removing")
                layers.put_aside(layer)
        going = {layer: layers.path(layer) if dry_run else layers.aside(layer) for layer in unnamed}
        left = [] if dry_run else layers.discarded()
    sizes = _sizes(storage, named, going) if going else {}
    for path in left:
        remove_tree(path)
    told = [{"id": layer, "bytes": size} for layer, size in sizes.items()]
    return {"layers": told, "bytes": sum(sizes.values()), "sessions": aside}


def _sizes(storage: Storage, named: set[str], going: Mapping[str, Path]) -> dict[str, int]:
    """Bytes that each of these layers gives back: what is linked from one that stays is not."""
    seen: set[tuple[int, int]] = set()
    for layer in named:
        if storage.layers.path(layer).exists():
            extent(storage.layers.path(layer), seen)
    return {layer: extent(path, seen).bytes for layer, path in going.items() if path.exists()}


def _remove(directory: Path) -> None:
    """Remove a session's directory; by a rename first, so that nobody meets half of it."""
    gone = directory.with_name(f".gone-{directory.name}")
    if directory.exists():
        directory.rename(gone)
        sync(directory.parent)
    failpoint("purge.renamed")
    if gone.exists():
        remove_tree(gone)
