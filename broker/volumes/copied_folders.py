"""Record the entries that a copy has of each folder, and find what has changed in the source since.

While a session is frozen, every file has to be looked at once (ADR 113). This loop makes no path, opens each folder
once, and compares four numbers a file with the recorded ones. Several processes share the work.

The standard library alone: the copy of a running session runs this in its job (docs/reference/session-job.md).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from broker.volumes.content import file_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.volumes.content import FileState
    from profiles.walk import Folder, Tree

MAX_PATH_BYTES = 4095
"""PATH_MAX of limits.h, without its NUL. Files with longer paths are copied each time instead of being linked."""
CHANGE_ERRORS = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.EEXIST, errno.ESTALE, errno.ENXIO}
)
"""Errors that occur if an entry changes its kind while it is copied."""
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MAX_PROCESSES = 4
"""Processes that scan together: a session's processors are idle while it is frozen."""
FILES_PER_PROCESS = 10_000
"""Files for which another process is worth its start: a scan of them takes some 30 ms (measured: 3 µs a file)."""


class CopiedFolder:
    """A folder of the source, and the entries that the copy has of it."""

    __slots__ = (
        "folders",
        "is_whole",
        "name",
        "owner",
        "owners",
        "parent",
        "path",
        "previous",
        "proof",
        "proven",
        "source",
        "target",
        "unproven",
    )  # fmt: skip

    def __init__(self, source: Folder, target: Folder, previous: Folder | None) -> None:
        """Create the record of the root."""
        self.source = source
        self.target = target
        self.previous = previous
        """The folder of the previous copy, which may not have it."""
        self.parent: CopiedFolder | None = None
        self.name = ""
        self.path: bytes | None = b""
        """Relative to the root; None for a path that is longer than MAX_PATH_BYTES."""
        self.proof: FileState | None = None
        """The folder's state when the copy got its attributes, if this state shows every later change of them."""
        self.proven: dict[str, FileState] = {}
        """Files in the copy whose inode, times and size are proven to show every later change."""
        self.unproven: dict[str, FileState] = {}
        """Files in the copy that may change without showing it."""
        self.folders: dict[str, CopiedFolder] = {}
        self.is_whole = True
        """Whether these three name every entry that the copy has here."""
        self.owner = b""
        self.owners: dict[str, bytes] = {}
        """Owners of the entries that do not belong to the copy's maker: records of `owners` without their paths."""

    def folder(self, name: str) -> CopiedFolder:
        """Create the record of a folder in this one."""
        raw = os.fsencode(name)
        previous = self.previous.folder(raw) if self.previous is not None else None
        made = CopiedFolder(self.source.folder(raw), self.target.folder(raw), previous)
        made.parent, made.name, made.path = self, name, self.below(name)
        self.folders[name] = made
        return made

    def below(self, name: str) -> bytes | None:
        """Return the path of an entry relative to the root, None if it is too long."""
        return path_below(self.path, os.fsencode(name))

    def holds(self, name: str) -> bool:
        """Whether the copy may have something of this name."""
        return not self.is_whole or name in self.proven or name in self.unproven or name in self.folders

    def forget(self, name: str) -> None:
        """Note that the copy has nothing of this name."""
        for known in (self.proven, self.unproven, self.folders, self.owners):
            known.pop(name, None)

    def is_in_copy(self) -> bool:
        """Whether neither this folder nor one above it was replaced."""
        folder = self
        while folder.parent is not None:
            if folder.parent.folders.get(folder.name) is not folder:
                return False
            folder = folder.parent
        return True

    def walk(self) -> Iterator[CopiedFolder]:
        """Yield this folder and all below it, each before those in it."""
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting += folder.folders.values()


def path_below(path: bytes | None, name: bytes) -> bytes | None:
    """Return the path of an entry of the folder at `path`; None if it is longer than MAX_PATH_BYTES."""
    if path is None:
        return None
    below = path + b"/" + name if path else name
    return below if len(below) <= MAX_PATH_BYTES else None


class FolderChange(NamedTuple):
    """Differences between a folder and what is noted of it."""

    number: int
    """Of the folder, in the order of the list that was looked at."""
    names: list[str]
    """Entries that are new, changed, or not proven to be unchanged."""
    has_lost: bool
    """Whether the copy may have something that is gone."""
    is_changed: bool
    """Whether the folder's own attributes may have changed."""


def find_changes(folders: Sequence[CopiedFolder], first: int = 0) -> list[FolderChange]:
    """Compare every entry of the source's folders with the record. OSError.

    A folder that has vanished is skipped: the change of its parent has its name. Changes are numbered from `first`.
    """
    changes = []
    for number, folder in enumerate(folders, first):
        try:
            change = _compare_folder(folder, number)
        except OSError as error:
            if error.errno not in CHANGE_ERRORS:
                raise
            continue
        if change.names or change.has_lost or change.is_changed:
            changes.append(change)
    return changes


def _compare_folder(folder: CopiedFolder, number: int) -> FolderChange:
    descriptor = folder.source.descriptor()
    is_changed = file_state(os.fstat(descriptor)) != folder.proof
    proven, folders = folder.proven, folder.folders
    names = []
    same = 0
    with os.scandir(descriptor) as entries:
        for entry in entries:
            name = entry.name
            noted = proven.get(name)
            if noted is not None:
                try:
                    status = entry.stat(follow_symlinks=False)
                except (
                    FileNotFoundError
                ):  # removed since the listing, so a process writes here: the copy counts as lost
                    continue
                if (status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size) == noted:
                    same += 1
                else:
                    names.append(name)
            elif name in folders and entry.is_dir(follow_symlinks=False):
                same += 1
            else:
                names.append(name)
    there = same + sum(name in proven or name in folders or name in folder.unproven for name in names)
    has_lost = not folder.is_whole or there < len(proven) + len(folders) + len(folder.unproven)
    return FolderChange(number, names, has_lost, is_changed)


class ParallelScanner:
    """Several processes that look for changes together: this one and some children. A context manager."""

    def __init__(self, source: Tree, folders: Sequence[CopiedFolder]) -> None:
        """Start the processes. They do not see later changes of `folders`."""
        self._source = source
        self._folders = folders
        files = sum(len(folder.proven) for folder in folders)
        shares = _shares(folders, min(MAX_PROCESSES, len(os.sched_getaffinity(0)), 1 + files // FILES_PER_PROCESS))
        self._own = shares[0]
        self._others: list[tuple[range, int, int, int]] = []
        """Per child: its share, its process id, and the pipes for requests and answers."""
        self._source.refresh()
        for share in shares[1:]:
            try:
                self._others.append((share, *self._start(share)))
            except OSError:  # as many processes as the user may have: then each looks at more
                self._others.append((share, 0, -1, -1))

    def look(self) -> list[FolderChange]:
        """Return the changes of all folders, each opened again from the root. OSError."""
        for _, process, asks, _ in self._others:
            if process:
                with contextlib.suppress(BrokenPipeError):
                    os.write(asks, b"\n")
        changes = self._look_at(self._own)
        for share, process, _, hears in self._others:
            found = _read_line(hears) if process else b""
            # Without an answer the process has ended, perhaps for want of memory.
            changes += [FolderChange(*each) for each in json.loads(found)] if found else self._look_at(share)
        return changes

    def close(self) -> None:
        """End the processes and wait for them."""
        for _, process, asks, hears in self._others:
            if process:
                os.close(asks)
                os.close(hears)
        for _, process, _, _ in self._others:
            if process:
                os.waitpid(process, 0)
        self._others.clear()

    def _look_at(self, share: range) -> list[FolderChange]:
        self._source.refresh()  # what was opened earlier may lie elsewhere by now
        return find_changes(self._folders[share.start : share.stop], share.start)

    def _start(self, share: range) -> tuple[int, int, int]:
        asked, asks = os.pipe()
        hears, answers = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                for _, other, other_asks, other_hears in self._others:
                    if other:
                        os.close(other_asks)
                        os.close(other_hears)
                os.close(asks)
                os.close(hears)
                while os.read(asked, 1):
                    answer = json.dumps(self._look_at(share)).encode() + b"\n"
                    while answer:
                        answer = answer[os.write(answers, answer) :]
            finally:
                os._exit(0)  # without an answer, the asker looks itself, and meets the same error
        os.close(asked)
        os.close(answers)
        return process, asks, hears


def _read_line(descriptor: int) -> bytes:
    """Return a line from a pipe, empty if its writer ended before."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            return b""
        line += piece
    return bytes(line)


def _shares(folders: Sequence[CopiedFolder], count: int) -> list[range]:
    """Divide the list into `count` parts in a row, with about as many files in each."""
    costs = [len(folder.proven) + 3 for folder in folders]
    each = sum(costs) / count
    shares: list[range] = []
    begin = cost = 0
    for index, more in enumerate(costs):
        cost += more
        if cost >= each * (len(shares) + 1) and len(shares) < count - 1:
            shares.append(range(begin, index + 1))
            begin = index + 1
    return [*shares, range(begin, len(folders))]
