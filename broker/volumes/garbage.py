"""Delete sessions, with a grace time, and remove layers that no record names."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from broker.failpoints import failpoint
from broker.volumes import progress, record
from broker.volumes.errors import VolumeError, from_os_error
from broker.volumes.files import file_lock, sync_path
from broker.volumes.inodes import BLOCK_BYTES
from broker.volumes.layers import REMOVAL_PREFIX
from broker.volumes.operations import describe_volumes
from profiles.removal import remove_tree
from profiles.walk import Tree, walk

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from broker.volumes.storage import Storage

Answer = dict[str, Any]


def trash_session(storage: Storage, session_id: str) -> Answer:
    """Move a session without a job to the trash, by one rename. Repeating the call is safe. VolumeError `busy`."""
    directory = storage.session(session_id)
    if not directory.exists():
        return {}
    (directory / "run").mkdir(mode=0o700, exist_ok=True)
    with (
        file_lock(storage.lock, shared=True),
        file_lock(directory / "volumes.lock"),
        file_lock(directory / "run/lock", wait=False, whose="a job"),
    ):
        storage.trash(session_id).parent.mkdir(mode=0o700, exist_ok=True)
        directory.rename(storage.trash(session_id))
        sync_path(directory.parent)
        sync_path(storage.trash(session_id).parent)
    failpoint("trash.moved")
    return {}


def restore_session(storage: Storage, session_id: str) -> Answer:
    """Move a session back from the trash and return its volumes. VolumeError `missing`."""
    directory, aside = storage.session(session_id), storage.trash(session_id)
    with file_lock(storage.lock, shared=True):
        if not directory.exists():
            if not aside.exists():
                raise VolumeError("missing", f"the data of {session_id} no longer exists")
            found = record.load_record(aside)
            storage.layers.check(found.named_layers())
            aside.rename(directory)
            sync_path(aside.parent)
            sync_path(directory.parent)
        failpoint("untrash.moved")
        return {"volumes": describe_volumes(storage, record.load_record(directory))}


def purge_session(storage: Storage, session_id: str) -> Answer:
    """Remove a session for good, with the layers that only it names. Repeating the call is safe.

    VolumeError or OSError if some layers could not be removed: everything else is, and the next call, or
    `collect_garbage`, tries again. Until then the session's record stays under a name that no operation reads.
    """
    for directory in (storage.session(session_id), storage.trash(session_id)):
        _mark_for_removal(directory)
    failpoint("purge.renamed")
    left = [
        gone for parent in ("sessions", "trash") if (gone := _removal_path(storage.root / parent / session_id)).exists()
    ]
    own = _layers_named_by(left)
    if storage.layers.root.is_dir():
        _, failures = _collect(storage)
        for layer, error in failures.items():
            if own is None or layer in own:
                raise error
    for gone in left:
        remove_tree(gone, count=progress.count)
    return {}


def collect_garbage(storage: Storage, *, dry_run: bool = False, over: Collection[str] = ()) -> Answer:
    """Remove the layers that no record names, and return their ids and sizes in bytes.

    Deleted sessions whose ids are in `over` go first. VolumeError, and nothing is removed, if a record cannot be read.
    VolumeError, and everything else is removed, if something cannot be removed; the next call tries again. The call
    waits for operations under way, whose layers have no names yet, and blocks them only until it knows what to remove.
    """
    answer, failures = _collect(storage, dry_run=dry_run, over=over)
    for error in failures.values():
        first = from_os_error(error)
        count = f"{len(failures)} of them" if len(failures) > 1 else "one of them"
        raise VolumeError(
            first.kind, f"unused data was removed, except for {count}, which is kept for the next attempt: {first}"
        )
    return answer


def _collect(
    storage: Storage, *, dry_run: bool = False, over: Collection[str] = ()
) -> tuple[Answer, dict[str, OSError]]:
    """Do as `collect_garbage`. Return the result, and per layer or directory the error that prevented its removal."""
    layers = storage.layers
    failures: dict[str, OSError] = {}
    with file_lock(storage.lock):
        aside = sorted(set(storage.trashed_sessions()) & set(over))
        named = set[str]()
        for session_id, found in storage.records():
            if session_id not in aside:
                named |= found.named_layers() | storage.job_tops(session_id)
        unnamed = [layer for layer in layers.all() if layer not in named]
        if not dry_run:
            for session_id in aside:
                _mark_for_removal(storage.trash(session_id))
                failpoint("purge.renamed")
                _remove_or_note(_removal_path(storage.trash(session_id)), session_id, failures)
            for layer in unnamed:
                failpoint("collect.removing")
                layers.put_aside(layer)
        going = {layer: layers.path(layer) if dry_run else layers.aside(layer) for layer in unnamed}
        left = [] if dry_run else layers.leftovers()
    sizes = _sizes(going)
    for path in left:
        _remove_or_note(path, path.name.removeprefix(REMOVAL_PREFIX), failures)
    unused = [{"id": layer, "bytes": size} for layer, size in sizes.items()]
    return {"layers": unused, "bytes": sum(sizes.values()), "sessions": aside}, failures


def _sizes(going: Mapping[str, Path]) -> dict[str, int]:
    """Return the bytes that the removal of each of these layers frees. A file counts once, if all its names are in
    them.

    A layer that cannot be counted has no bytes: its removal will report the error.
    """
    names: dict[tuple[int, int], int] = {}
    sizes = dict.fromkeys(going, 0)
    for layer, path in going.items():
        with contextlib.suppress(OSError), Tree(path) as tree:
            for entry in walk(tree.root):
                status = entry.status
                if status.st_nlink > 1 and not entry.is_folder:
                    inode = (status.st_dev, status.st_ino)
                    names[inode] = names.get(inode, 0) + 1
                    if names[inode] < status.st_nlink:
                        continue
                sizes[layer] += status.st_blocks * BLOCK_BYTES
    return sizes


def _removal_path(directory: Path) -> Path:
    return directory.with_name(REMOVAL_PREFIX + directory.name)


def _mark_for_removal(directory: Path) -> None:
    """Rename a session's directory, so that no reader finds only a part of it."""
    if directory.exists():
        directory.rename(_removal_path(directory))
        sync_path(directory.parent)


def _remove_or_note(path: Path, name: str, failures: dict[str, OSError]) -> None:
    """Remove a tree, or note why that is not possible."""
    try:
        remove_tree(path, count=progress.count)
    except OSError as error:
        failures[name] = error


def _layers_named_by(directories: Iterable[Path]) -> set[str] | None:
    """Return the layers that these records name, None if one cannot be read."""
    named = set[str]()
    for directory in directories:
        try:
            named |= record.load_record(directory).named_layers()
        except (OSError, VolumeError) as error:
            if not (isinstance(error, VolumeError) and error.kind == "missing"):
                return None
    return named
