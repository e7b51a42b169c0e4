"""Make a session of the snapshot that another user's process sends: the receiver of `berth clone OWNER.NAME`.

The sender is another user, who may send anything. volumes.json, written last, makes the session: the user gets
everything or nothing.
"""

from __future__ import annotations

import contextlib
import os
from typing import IO, TYPE_CHECKING, Any

from broker.failpoints import failpoint
from broker.volumes import progress, record
from broker.volumes.drivers import MODES
from broker.volumes.errors import VolumeError
from broker.volumes.files import file_lock
from broker.volumes.layers import Layers, require_free_space
from broker.volumes.live_copy import TREE
from broker.volumes.operations import choose_driver, describe_volumes
from broker.volumes.record import Record
from broker.volumes.saves import pack_changes
from broker.volumes.snapshot_stream import (
    BEGIN,
    BEGIN_HEAD,
    END,
    END_HEAD,
    MAX_PIECE_BYTES,
    VOLUME,
    MalformedStreamError,
    read_snapshot_records,
    unpack_head,
)
from broker.volumes.tree_receiver import SpaceAllowance, TreeReceiver
from profiles.image.overlayfs import FUSE_WRITTEN, Marks
from profiles.local_folder import local_folder
from profiles.walk import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.volumes.drivers import Driver
    from broker.volumes.record import Volume
    from broker.volumes.storage import Storage

Answer = dict[str, Any]


def receive_snapshot(
    storage: Storage,
    session_id: str,
    operation: str,
    stream: int,
    *,
    driver: str,
    digest: str,
    with_system: bool,
    most_bytes: int,
) -> Answer:
    """Make the session `session_id` of what arrives on the descriptor `stream`, which is closed.

    `digest`: of the image below the system volume. `with_system`: whether a system volume arrives. At most `most_bytes`
    are taken. VolumeError, OSError: then nothing is left but garbage.
    """
    directory = storage.session(session_id)
    with os.fdopen(stream, "rb", buffering=MAX_PIECE_BYTES) as records, file_lock(storage.lock, shared=True):
        if (directory / record.RECORD).exists():
            return record.load_record(directory).done[operation]
        chosen, on_node = choose_driver(storage, driver)
        allowance = SpaceAllowance(most_bytes)
        with contextlib.ExitStack() as undoing:
            kinds = ("home", "system") if with_system else ("home",)
            made = _receive_volumes(storage.layers, records, allowance, kinds, undoing, packed=on_node)
            failpoint("receive.made")
            home, system = (_adopt_layer(storage.layers, chosen, kind, made.get(kind)) for kind in ("home", "system"))
            storage.layers.flush()
            received = Record(driver=chosen.name, home=home, system=system, digest=digest, on_node=on_node)
            answer: Answer = {
                "volumes": describe_volumes(storage, received),
                "files": allowance.entries,
                "bytes": allowance.bytes,
            }
            for each in (directory, directory / "run"):
                each.mkdir(mode=0o700, exist_ok=True)
            failpoint("receive.before-commit")
            record.commit_record(directory, received.with_answer(operation, answer))
            undoing.pop_all()
        failpoint("receive.committed")
        return answer


def _try_discard(layers: Layers, layer: str) -> None:
    """Remove a layer. Where a used-up quota prevents even that, the garbage collection does it later."""
    with contextlib.suppress(OSError):
        layers.discard(layer)


def _adopt_layer(layers: Layers, driver: Driver, kind: str, layer: str | None) -> Volume:
    """Return a volume with the content of a received layer; an empty one without a layer, or if nothing is in it."""
    if layer is not None and (layers.squashfs(layer).exists() or any(layers.tree(layer).iterdir())):
        return driver.adopt(kind, layer)
    if layer is not None:
        layers.discard(layer)
    return driver.make_volume(kind)


def _receive_volumes(
    layers: Layers,
    stream: IO[bytes],
    allowance: SpaceAllowance,
    kinds: tuple[str, ...],
    undoing: contextlib.ExitStack,
    *,
    packed: bool,
) -> dict[str, str]:
    """Receive the volumes `kinds`, each into a new layer; return the layers' ids. `packed`: pack the system's."""
    made: dict[str, str] = {}
    records = read_snapshot_records(stream)
    _check_room(layers, *next(records), allowance)
    with contextlib.ExitStack() as receiving:
        tree: TreeReceiver | None = None
        for kind, content in records:
            if kind not in {VOLUME, END}:
                if tree is None:
                    raise MalformedStreamError("an entry is in no volume")
                tree.take(kind, content)
                continue
            if tree is not None:
                tree.finish()
                receiving.close()
            if kind == END:
                break
            if len(made) == len(kinds) or content != kinds[len(made)].encode():
                raise MalformedStreamError("a volume was not requested")
            name = kinds[len(made)]
            layer = made[name] = layers.new_layer()
            undoing.callback(_try_discard, layers, layer)
            is_packed = packed and name == "system"
            tree = receiving.enter_context(_open_volume(layers, layer, name, allowance, packed=is_packed))
            failpoint("receive.volume")
    (entries,), rest = unpack_head(END_HEAD, content)
    if rest or entries != allowance.entries or len(made) != len(kinds):
        raise MalformedStreamError("the end is not that of what has come")
    return made


def _check_room(layers: Layers, kind: bytes, content: bytes, allowance: SpaceAllowance) -> None:
    """Require room for what is announced. VolumeError `space`."""
    if kind != BEGIN:
        raise MalformedStreamError("it does not begin")
    (size, entries), _ = unpack_head(BEGIN_HEAD, content)
    allowance.check(size)
    require_free_space(layers.root, size)
    inodes = os.statvfs(layers.root)
    if inodes.f_files and entries > inodes.f_favail:
        raise VolumeError("space", f"this needs {entries} inodes, and {inodes.f_favail} are free")
    progress.expect(size)


@contextlib.contextmanager
def _open_volume(
    layers: Layers, layer: str, kind: str, allowance: SpaceAllowance, *, packed: bool
) -> Iterator[TreeReceiver]:
    """Open the tree of a new layer for a volume; at the end of the context without an error it is complete."""
    with contextlib.ExitStack() as stack:
        place = layers.path(layer)
        if packed:
            place = stack.enter_context(local_folder()) / "layer"
            place.mkdir()
        root = place / TREE
        root.mkdir()
        with Tree(root) as tree:
            receiver = TreeReceiver(tree, allowance, is_system=kind == "system")
            try:
                yield receiver
            finally:
                receiver.abandon()
        root.chmod(MODES[kind])
        if receiver.marks is Marks.FUSE:
            (place / FUSE_WRITTEN).touch()
        if packed and any(root.iterdir()):
            pack_changes(place, layers.path(layer))
