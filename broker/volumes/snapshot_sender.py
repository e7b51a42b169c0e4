"""Send a snapshot to another user's process, for `berth clone OWNER.NAME`, and list for the snapshot's owner what would
be sent, for `berth share --snapshot`.

No lock is held while another user's process reads: it could hold it for as long as it likes. A snapshot never changes,
and the garbage collection removes layers that no record names; so what was read is complete if the record still names
the snapshot at the end. The standard library alone.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from broker.failpoints import failpoint
from broker.volumes import progress, record
from broker.volumes.content import attribute_names, data_extents, has_holes
from broker.volumes.drivers import OverlayDriver
from broker.volumes.errors import VolumeError
from broker.volumes.inspection import printable_path
from broker.volumes.shared_tree import OpenedSource, walk_shared
from broker.volumes.snapshot_stream import (
    ATTRIBUTE,
    ATTRIBUTE_HEAD,
    BEGIN,
    BEGIN_HEAD,
    DATA,
    DATA_HEAD,
    DELETED,
    END,
    END_HEAD,
    FAILED,
    FAILURES,
    FILE,
    FILE_HEAD,
    FOLDER,
    FOLDER_HEAD,
    LEAVE,
    LINK,
    LINK_HEAD,
    MAX_PIECE_BYTES,
    PERMISSIONS,
    SYMLINK,
    SYMLINK_HEAD,
    VOLUME,
    SnapshotStream,
    is_sent_attribute,
)
from broker.volumes.squashfs import unpack_layer
from broker.volumes.tree_receiver import ENTRY_BYTES
from profiles.image.overlayfs import EntryKind, Marks, detect_marks, open_stack
from profiles.local_folder import local_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.volumes.record import Record
    from broker.volumes.storage import Storage
    from profiles.image.overlayfs import LayerEntry, OpenStack

Answer = dict[str, Any]

MAX_LISTED = 1000
"""Entries that are left out and listed one by one."""
MAX_LISTED_CHARACTERS = 2**18
"""Limit for the characters of their paths together."""
BLOCK_BYTES = 512


def send_snapshot(storage: Storage, session_id: str, number: int, stream: int, *, with_system: bool) -> Answer:
    """Send a snapshot into the pipe `stream`, which is closed. OSError if no process reads any more.

    A failure to read is sent, too, without its reason: that is the owner's alone.
    """
    sender = _Sender(SnapshotStream(stream))
    try:
        try:
            sender.send(storage, session_id, number, ("home", "system") if with_system else ("home",))
        except BrokenPipeError:
            raise
        except (OSError, VolumeError) as error:
            kind = error.kind if isinstance(error, VolumeError) else "files"
            sender.stream.add(FAILED, (kind if kind in FAILURES else "files").encode())
            sender.stream.flush()
            raise
    finally:
        os.close(stream)
    return {}


def survey_snapshot(storage: Storage, session_id: str, number: int) -> Answer:
    """Return what `send_snapshot` would send and what it would leave out, at most MAX_LISTED entries of that."""
    found = record.load_record(storage.session(session_id))
    counts: dict[str, dict[str, int]] = {}
    listed: list[dict[str, str]] = []
    reasons = Counter[str]()
    characters = 0
    for volume, stack in _open_snapshot(storage, found, number, ("home", "system")):
        count = counts[volume] = {"files": 0, "bytes": 0}

        def leave_out(path: str, reason: str, volume: str = volume) -> None:
            nonlocal characters
            reasons[reason] += 1
            shown = printable_path(path)
            characters += len(shown)
            if len(listed) < MAX_LISTED and characters <= MAX_LISTED_CHARACTERS:
                listed.append({"volume": volume, "path": shown, "reason": reason})

        for step in walk_shared(stack, volume, leave_out):
            if step.found is not None and step.found.kind in {EntryKind.FILE, EntryKind.SYMLINK}:
                count["files"] += 1
                count["bytes"] += step.found.status.st_blocks * BLOCK_BYTES
                progress.count(files=1)
    _check_kept(storage, session_id, number)
    return {
        "included": counts,
        "left_out": listed,
        "reasons": dict(reasons),
        "truncated": reasons.total() > len(listed),
    }


class _Sender:
    """Sends the volumes of one snapshot."""

    def __init__(self, stream: SnapshotStream) -> None:
        self.stream = stream
        self._entries = 0
        self._linked: dict[tuple[int, int], int] = {}
        """The number of each sent file that has more names, by device and inode."""

    def send(self, storage: Storage, session_id: str, number: int, kinds: tuple[str, ...]) -> None:
        found = record.load_record(storage.session(session_id))
        failpoint("send.opened")
        with _unpack_layers(storage, found, number) as trees:
            size = entries = 0
            for volume, stack in _open_volumes(storage, found, number, kinds, trees):
                for step in walk_shared(stack, volume, lambda *_: None, reads=False):
                    if step.found is not None:
                        entries += 1
                        size += ENTRY_BYTES + step.found.status.st_blocks * BLOCK_BYTES
            self.stream.add(BEGIN, BEGIN_HEAD.pack(size, entries))
            for volume, stack in _open_volumes(storage, found, number, kinds, trees):
                self.stream.add(VOLUME, volume.encode())
                self._linked.clear()
                self._send_volume(stack, volume)
                failpoint("send.volume")
        _check_kept(storage, session_id, number)
        self.stream.add(END, END_HEAD.pack(self._entries))
        self.stream.flush()
        failpoint("send.done")

    def _send_volume(self, stack: OpenStack, volume: str) -> None:
        for step in walk_shared(stack, volume, lambda *_: None):
            found = step.found
            if found is None:
                self.stream.add(LEAVE)
                continue
            self._entries += 1
            if found.kind is EntryKind.DIRECTORY:
                mode, modified = _sent_status(found.status)
                self.stream.add(FOLDER, FOLDER_HEAD.pack(mode, modified, step.is_opaque), found.name)
                self._send_attributes(found.folder.folder(found.name).descriptor())
            elif found.kind is EntryKind.WHITEOUT:
                self.stream.add(DELETED, found.name)
            elif found.kind is EntryKind.SYMLINK:
                target = os.readlink(found.name, dir_fd=found.folder.descriptor())
                _, modified = _sent_status(found.status)
                self.stream.add(SYMLINK, SYMLINK_HEAD.pack(modified, len(found.name)), found.name, target)
            else:
                assert step.file is not None
                self._send_file(found, step.file)

    def _send_file(self, found: LayerEntry, file: OpenedSource) -> None:
        status = file.status
        inode = (status.st_dev, status.st_ino)
        if status.st_nlink > 1:
            if (number := self._linked.get(inode)) is not None:
                self.stream.add(LINK, LINK_HEAD.pack(number), found.name)
                return
            self._linked[inode] = len(self._linked)
        mode, modified = _sent_status(status)
        head = FILE_HEAD.pack(mode, modified, status.st_size, status.st_nlink > 1)
        self.stream.add(FILE, head, found.name)
        self._send_attributes(file.descriptor)
        if file.whole is not None and not has_holes(status):
            self._send_pieces(0, file.whole)
            return
        extents = data_extents(file.descriptor, status.st_size) if has_holes(status) else [(0, status.st_size)]
        for begin, end in extents:
            for at in range(begin, end, MAX_PIECE_BYTES):
                piece = os.pread(file.descriptor, min(MAX_PIECE_BYTES, end - at), at)
                self._send_pieces(at, piece)

    def _send_pieces(self, offset: int, content: bytes) -> None:
        for at in range(0, len(content), MAX_PIECE_BYTES):
            self.stream.add(DATA, DATA_HEAD.pack(offset + at), content[at : at + MAX_PIECE_BYTES])

    def _send_attributes(self, descriptor: int) -> None:
        for name in attribute_names(descriptor):
            if is_sent_attribute(name):
                encoded = os.fsencode(name)
                self.stream.add(ATTRIBUTE, ATTRIBUTE_HEAD.pack(len(encoded)), encoded, os.getxattr(descriptor, name))


def _sent_status(status: os.stat_result) -> tuple[int, int]:
    """Return permissions and time of modification (ns) as a record has them."""
    return status.st_mode & PERMISSIONS, max(-(2**62), min(status.st_mtime_ns, 2**62))


def _check_kept(storage: Storage, session_id: str, number: int) -> None:
    """Require that nothing has removed the snapshot while it was read. VolumeError `missing`."""
    snapshot = record.load_record(storage.session(session_id)).snapshot(number)
    storage.layers.check({*snapshot.home, *snapshot.system})


def _open_snapshot(
    storage: Storage, found: Record, number: int, kinds: tuple[str, ...]
) -> Iterator[tuple[str, OpenStack]]:
    with _unpack_layers(storage, found, number) as trees:
        yield from _open_volumes(storage, found, number, kinds, trees)


def _open_volumes(
    storage: Storage, found: Record, number: int, kinds: tuple[str, ...], trees: dict[str, str]
) -> Iterator[tuple[str, OpenStack]]:
    """Open the volumes of a snapshot, one after the other."""
    snapshot = found.snapshot(number)
    for volume in kinds:
        stack = snapshot.home if volume == "home" else snapshot.system
        # A plain directory is mounted by no overlay: everything in it is content.
        is_plain = volume == "home" and found.driver != OverlayDriver.name
        marks = Marks.NONE if is_plain else detect_marks(storage.layers.path(layer) for layer in stack)
        with open_stack([trees[layer] for layer in stack], marks) as opened:
            yield volume, opened


@contextlib.contextmanager
def _unpack_layers(storage: Storage, found: Record, number: int) -> Iterator[dict[str, str]]:
    """Give the tree of each layer of a snapshot. Packed layers are unpacked on this machine's disk meanwhile."""
    snapshot = found.snapshot(number)
    names = {*snapshot.home, *snapshot.system}
    storage.layers.check(names)
    packed = sorted(layer for layer in names if storage.layers.squashfs(layer).exists())
    trees = {layer: str(storage.layers.tree(layer)) for layer in names}
    with local_folder() if packed else contextlib.nullcontext() as near:
        for layer in packed:
            assert near is not None
            unpack_layer(storage.layers.squashfs(layer), near / layer)
            trees[layer] = str(near / layer)
        yield trees
