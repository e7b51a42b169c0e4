"""Saves of a system volume from a node's disk (ADR 120). Each save is a packed layer, and only one job may make them.

```
layers/<top>/saved        record.Save, replaced as a whole: this rename is the commit point of a save
layers/<top>/saved.lock   flock: held while `saved` is read and replaced
layers/<id>/              the changes of one job: layer.squashfs  kept  deep/  owners  fuse, and an empty tree/, whose
                          attributes are those of the session's /
```

The standard library alone: the session's job runs this, from the archive that copies a running session.

    python3 -I copying.pyz claim TOP SUBMISSION.RESTARTS
    python3 -I copying.pyz save TOP SUBMISSION.RESTARTS MADE [LAYER]
    python3 -I copying.pyz store LAYER MADE
    python3 -I copying.pyz unpack LAYER TARGET
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from broker.failpoints import failpoint
from broker.volumes.errors import VolumeError, from_os_error
from broker.volumes.files import file_lock, sync_path
from broker.volumes.layers import SQUASHFS, Layers, copy_root_attributes
from broker.volumes.live_copy import OWNERS, TREE
from broker.volumes.record import read_save, write_save
from broker.volumes.squashfs import DEEP, KEPT, pack_layer, unpack_layer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.volumes.record import Save, Stack

FUSE_WRITTEN = "fuse"
"""As in profiles.image.overlayfs."""
COMMANDS = frozenset({"claim", "save", "store", "unpack"})
FAILED, SUPERSEDED = 1, 3
MAX_SAVES = 8
"""Layers that jobs of a session that is never stopped leave: each is a mount of the next job's. A session that is
stopped has its layers joined."""

LOCK_WAIT_S = 60
"""Limit for the wait for a lock, which others hold for a moment only. A file server may keep the lock of a client that
is gone. The save then fails with a message, and a later one may succeed."""

Generation = tuple[int, int]


def claim_top(top: Path, generation: Generation) -> Save:
    """Assign a top to the job of this generation. The job begins with the saved layers below its own changes. If there
    are many, it must unpack the newest one and save it together with its own changes.

    VolumeError `conflict` if a later job has the top. A full disk does not stop the job: an older job that was cut off
    and returns could save nothing there either.
    """
    with _locked_save(top) as before:
        before.check(generation)
        claimed = _claim_record(before, generation)
        with contextlib.suppress(OSError):
            write_save(top, claimed)
        return claimed


def _claim_record(before: Save, generation: Generation) -> Save:
    if len(before.stack) < MAX_SAVES:
        return replace(before, generation=generation, below=before.stack, own="", is_kept=False)
    *below, own = before.stack
    # One that is below may have come from a snapshot.
    return replace(before, generation=generation, below=tuple(below), own=own, is_kept=before.is_kept or not before.own)


def pack_changes(made: Path, target: Path) -> None:
    """Pack the layer directory `made` of the node's disk into the new layer's directory `target`, and write it to disk.
    VolumeError, OSError.
    """
    layers = Layers(target.parent)
    (target / TREE).mkdir(exist_ok=True)
    copy_root_attributes(made / TREE, target / TREE)
    pack_layer(made / TREE, target, in_job=True)
    if (made / FUSE_WRITTEN).exists():
        (target / FUSE_WRITTEN).touch()
    if (made / OWNERS).exists():
        (target / OWNERS).write_bytes((made / OWNERS).read_bytes())
    if (target / DEEP).exists():
        layers.flush()
    for name in (SQUASHFS, KEPT, OWNERS):
        if (target / name).exists():
            sync_path(target / name)
    sync_path(target)
    sync_path(layers.root)


def save_changes(top: Path, generation: Generation, made: Path) -> None:
    """Save the changes of a job, the directory `made` whose `tree` has no writers, as a layer of the top.

    Until the commit, the last save is valid. VolumeError `conflict` if a later job has the top.
    """
    layers = Layers(top.parent)
    # Or gc takes the new layer for one that nothing needs.
    with file_lock(layers.root.parent / "lock", shared=True, wait=LOCK_WAIT_S):
        read_save(top).check(generation)
        layer = layers.new_layer()
        try:
            with _allow_interrupts():
                pack_changes(made, layers.path(layer))
            replaced = _record_save(top, generation, layer, is_kept=False)
        except (OSError, VolumeError):
            layers.discard(layer)  # it may have the room that is missing
            raise
    with contextlib.suppress(VolumeError, OSError), file_lock(layers.root.parent / "lock", wait=False):
        for each in replaced:  # else the next save does, or gc
            layers.discard(each)


def _record_save(top: Path, generation: Generation, layer: str, *, is_kept: bool) -> Stack:
    """Record a layer as the job's save, and return the layers that are not needed any more."""
    layers = Layers(top.parent)
    with _locked_save(top) as before:
        before.check(generation)
        # Without room for it, the claim was not noted.
        claimed = before if before.generation == generation else _claim_record(before, generation)
        own = (claimed.own,) if claimed.own and not claimed.is_kept else ()
        replaced = tuple(each for each in (*claimed.replaced, *own) if layers.path(each).exists())
        failpoint("save.packed")
        noted = replace(claimed, own=layer, is_kept=is_kept, at=time.time(), replaced=replaced)
        try:
            write_save(top, noted)
        except OSError:
            if not _may_name(top, layer):
                raise
            return ()  # It may be lost with the server's memory: what it replaces stays until the next save.
        failpoint("save.noted")
        return replaced


def _may_name(top: Path, layer: str) -> bool:
    """Whether the saves of a top name this layer. True also if they cannot be read."""
    try:
        return layer in read_save(top).stack
    except (OSError, VolumeError):
        return True


def save_copy(top: Path, generation: Generation, made: Path, layer: str) -> None:
    """Save a copy for a snapshot as the layer of that id, which the launcher has made."""
    # Or gc takes the layer if the launcher's child has ended.
    with file_lock(top.parents[1] / "lock", shared=True, wait=LOCK_WAIT_S):
        read_save(top).check(generation)
        with _allow_interrupts():
            pack_changes(made, top.parent / layer)
        _record_save(top, generation, layer, is_kept=True)


@contextlib.contextmanager
def _locked_save(top: Path) -> Iterator[Save]:
    with file_lock(top / "saved.lock", wait=LOCK_WAIT_S):
        yield read_save(top)


@contextlib.contextmanager
def _allow_interrupts() -> Iterator[None]:
    """Let SIGTERM end the work within the context. `main` holds SIGTERM back at other times."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise_interrupted(_number: int, _frame: object) -> NoReturn:
    """Raise an error. The program that packs is killed on the way out (broker.volumes.program.run_program)."""
    raise VolumeError("files", "the job ended before what has changed was packed")


def main(words: Sequence[str]) -> int:
    """Run the command of the command line and return the exit code. The last line of the standard error has the reason
    of a failure.
    """
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a save that has begun to come true comes true
    signal.signal(signal.SIGTERM, _raise_interrupted)
    command, path, *rest = words
    try:
        if command in {"store", "unpack"}:
            with _allow_interrupts():
                if command == "store":
                    pack_changes(Path(rest[0]), Path(path))
                else:
                    unpack_layer(Path(path) / SQUASHFS, Path(rest[0]))
            return 0
        submission, _, restarts = rest[0].partition(".")
        generation = (int(submission), int(restarts))
        if command == "claim":
            with _allow_interrupts():
                claimed = claim_top(Path(path), generation)
            print(*reversed(claimed.below))
            print(claimed.own)
        elif len(rest) > 2:
            save_copy(Path(path), generation, Path(rest[1]), rest[2])
        else:
            save_changes(Path(path), generation, Path(rest[1]))
    except OSError as error:
        print(from_os_error(error), file=sys.stderr)
        return FAILED
    except VolumeError as error:
        print(error, file=sys.stderr)
        return SUPERSEDED if error.kind == "conflict" else FAILED
    return 0
