"""Compare immutable layers with their checksums."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from broker.volumes import files, progress, record
from broker.volumes.checksums import LONG_NAME_PREFIX, MAX_NAME_BYTES, SPARSE_PREFIX, checksum, record_name
from broker.volumes.errors import shorten_path
from broker.volumes.inspection import printable_path
from broker.volumes.layers import SQUASHFS
from broker.volumes.squashfs import DEEP, KEPT
from profiles.userfile import read_records
from profiles.walk import Tree, TreeEntry, walk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from broker.volumes.layers import Layers
    from broker.volumes.storage import Storage
    from profiles.walk import Folder

Answer = dict[str, Any]

MAX_PROBLEMS = 200
"""Problems that `verify` names; it counts the others."""
SUMS = "sums"
"""Beside a layer's `tree`: a checksum a path, written when the layer was first verified."""
MAX_SUMS_BYTES = 2**30
"""Limit for that file: some ten million files."""
MAX_SUM_BYTES = len(SPARSE_PREFIX) + 64 + 1 + MAX_NAME_BYTES
"""Bytes of one of its records: a SHA-256 in hexadecimal digits, a blank, and the name of an entry."""


def verify(storage: Storage, session_id: str) -> Answer:
    """Read every immutable layer of a session, and compare it with its checksums.

    A layer without checksums gets them now. Tops are not read, since sessions write to them. Unreadable files are
    problems; everything else is compared. VolumeError; OSError for a damaged file of checksums.
    """
    immutable = record.load_record(storage.session(session_id)).immutable_layers()
    recorded = 0
    problems = Problems()
    for layer in sorted(immutable):
        try:
            content = LayerContent(storage.layers, layer)
        except (FileNotFoundError, NotADirectoryError):
            problems.add(f"{layer}: the layer is missing")
            continue
        with content:
            content.read(problems)
            if os.path.lexists(content.file):
                content.compare(problems)
            elif content.is_whole:
                content.record()
                recorded += 1
    return {"layers": len(immutable), "recorded": recorded, "problems": problems.lines()}


class Problems:
    """Differences between layers and their checksums: the first MOST_PROBLEMS, and how many there are."""

    def __init__(self) -> None:
        self._named: list[str] = []
        self._count = 0

    def add(self, problem: str) -> None:
        self._count += 1
        if len(self._named) < MAX_PROBLEMS:
            self._named.append(printable_path(problem))

    def lines(self) -> list[str]:
        more = self._count - len(self._named)
        return [*self._named, f"… and {more} more"] if more else self._named


class LayerContent:
    """The content of a layer now. A context manager."""

    def __init__(self, layers: Layers, layer: str) -> None:
        """Open the layer. OSError if it is not there."""
        self.file = layers.path(layer) / SUMS
        self.is_whole = True
        """Whether all of it could be read."""
        self._is_listed = True
        """Whether all folders could be read, so that an entry that was not found does not exist."""
        self._layer = layer
        self._is_packed = layers.squashfs(layer).exists()
        self._tree = Tree(layers.path(layer) if self._is_packed else layers.tree(layer))
        self._sums: dict[bytes, bytes | None] = {}
        """Checksums by the name that a record has; None for what could not be read."""
        self._long: dict[bytes, TreeEntry] = {}
        """Entries whose paths are too long for a record."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tree.close()

    def read(self, problems: Problems) -> None:
        """Read everything, and report what cannot be read."""
        folder, before = self._tree.root, b""
        for entry in self._entries(problems):
            if entry.folder is not folder:
                folder, before = entry.folder, entry.folder.below(b"")
            name = record_name(before + entry.name)
            if name.startswith(LONG_NAME_PREFIX):
                self._long[name] = entry
            try:
                progress.count(files=1)
                self._sums[name] = checksum(*entry)
            except OSError as error:
                self._sums[name] = None
                self._note_unread(problems, before + entry.name, error)

    def record(self) -> None:
        """Write the checksums down. OSError."""
        files.replace_file(self.file, (b"%s %s\0" % (digest, name) for name, digest in self._sums.items() if digest))

    def compare(self, problems: Problems) -> None:
        """Compare with the file of checksums, of which one record at a time is in memory; once only. OSError."""
        changed = []
        for each in read_records(self.file, MAX_SUMS_BYTES, longest=MAX_SUM_BYTES):
            known, _, name = each.partition(b" ")
            if name in self._sums:
                found = self._sums.pop(name)
                if found is not None and found != known and self._checksum_like(known, name) != known:
                    changed.append(name)
            elif self._is_listed:
                self._report(problems, name, "is missing")
        for name in sorted(name for name, found in self._sums.items() if found is not None):
            self._report(problems, name, "is new")
        for name in changed:
            self._report(problems, name, "has changed")

    def _entries(self, problems: Problems) -> Iterator[TreeEntry]:
        def note(folder: Folder, error: OSError) -> None:
            self._is_listed = False
            self._note_unread(problems, folder.path, error)

        root = self._tree.root
        if not self._is_packed:
            yield from walk(root, unread=note)
            return
        for name in (SQUASHFS.encode(), KEPT.encode()):
            if (status := root.status(name)) is not None:
                yield TreeEntry(root, name, status)
        yield from walk(root.folder(DEEP.encode()), unread=note)

    def _checksum_like(self, known: bytes, name: bytes) -> bytes | None:
        """Return an entry's checksum in the form of a known one: a file may have got holes, or lost them, since.

        None if it cannot be read any more.
        """
        try:
            folder, last = self._find(name)
            status = folder.status(last)
            return None if status is None else checksum(folder, last, status, is_sparse=known.startswith(SPARSE_PREFIX))
        except OSError:
            return None

    def _find(self, name: bytes) -> tuple[Folder, bytes]:
        if (entry := self._long.get(name)) is not None:
            return entry.folder, entry.name
        *folders, last = name.split(b"/")
        folder = self._tree.root
        for each in folders:
            folder = folder.folder(each)
        return folder, last

    def _note_unread(self, problems: Problems, path: bytes, error: OSError) -> None:
        self.is_whole = False
        problems.add(f"{self._layer}: {shorten_path(os.fsdecode(path)) or '.'}: cannot be read: {error.strerror}")

    def _report(self, problems: Problems, name: bytes, what: str) -> None:
        path = self._long[name].path if name in self._long else name
        shown = shorten_path(os.fsdecode(path))
        if path.startswith(LONG_NAME_PREFIX):
            shown = f"an entry with a path of more than {MAX_NAME_BYTES} bytes ({shown[1:]})"
        problems.add(f"{self._layer}: {shown}: {what}")
