"""Copy single files, links and devices of a tree, and decide whether a file's state shows every later change.

A file counts as unchanged only if that is proven; otherwise the second pass reads it (ADR 106). Time stamps alone prove
nothing. A store into a page of a mapping that is dirty already changes none, and a long write(2) changes them only at
its beginning. They are a proof if

- every system call and page fault that was under way ended before the first pass (the drain),
- the file's dirty pages were written out before the time stamps were read. The next store must fault, and the fault
  changes the time of change. A file of the program's own first shows that the file system does so.
- the file's time of change was then older than RACY_NS, so that a later change has another one.

The standard library alone: the copy of a running session runs this in its job (docs/reference/session-job.md).
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

from broker.volumes import progress
from broker.volumes.content import (
    SMALL_BYTES,
    FileState,
    copy_attributes,
    copy_extents,
    file_state,
    has_holes,
    read_attributes,
    same_content,
    share_blocks,
    write_all,
    write_dirty_pages,
)
from broker.volumes.copied_folders import READ_FLAGS
from broker.volumes.unreadable import UnreadableFilesError

if TYPE_CHECKING:
    from broker.volumes.copied_folders import CopiedFolder
    from profiles.walk import Folder

RACY_NS = 2 * 10**9
"""Nanoseconds. A file that changed less than this before its status was read may change again without another time
stamp: the steps of time stamps are as coarse as a kernel's tick or a file server's clock."""
ProvenState = tuple[FileState, bool]
"""The state of a file when its copy began, and whether this state shows every later change."""
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ChangeProof:
    """The evidence that a file's state shows every later change of the file."""

    def __init__(self, now_ns: int) -> None:
        """`now_ns` is the present time by the clock of the file system that has the copy."""
        self._clock_offset_ns = now_ns - time.monotonic_ns()
        self._drained_ns: int | None = None
        """By the file system's clock: system calls that began earlier had ended then. None: nothing is known."""
        self.shows_stores = False
        """Whether the file system changes a file's time of change at a store into a clean page."""
        self.is_frozen = False
        """Whether the writers are frozen. What is copied then is not proven: its writers were not drained for it."""

    @property
    def is_drained(self) -> bool:
        return self._drained_ns is not None

    def mark_drained(self) -> None:
        """Note that every system call and page fault of the writers that began before now has ended."""
        self._drained_ns = self._clock_offset_ns + time.monotonic_ns()

    def holds_for(self, state: FileState) -> bool:
        """Whether a change that began after the drain has another time stamp than this state."""
        return not self.is_frozen and self._drained_ns is not None and state[1] < self._drained_ns - RACY_NS


class EntryCopier:
    """Copies entries that are no folders, as new files."""

    def __init__(self, proof: ChangeProof) -> None:
        self._proof = proof
        self._can_share_blocks = True

    def copy(self, folder: CopiedFolder, name: str, status: os.stat_result) -> ProvenState:
        """Copy one entry. Return its state when the copy began, and whether this state shows every later change."""
        mode = status.st_mode
        if stat.S_ISREG(mode):
            return self.open_file(folder, name).copy()
        target = folder.target.descriptor()
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=folder.source.descriptor()), name, dir_fd=target)
        else:  # a FIFO, or overlayfs' mark of deletion
            os.mknod(name, mode, status.st_rdev, dir_fd=target)
            os.chmod(name, stat.S_IMODE(mode), dir_fd=target)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        return file_state(status), self._proof.holds_for(file_state(status))

    def is_equal(self, folder: CopiedFolder, name: str, status: os.stat_result) -> bool:
        """Whether the copy of a file equals the source, which is frozen. False for a large file that can be shared."""
        is_large = self._can_share_blocks and status.st_size > SMALL_BYTES
        if not self._proof.is_frozen or not stat.S_ISREG(status.st_mode) or is_large:
            return False
        source = _open_source(folder, name)
        try:
            target = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder.target.descriptor())
            try:
                ours = os.fstat(target)
                return (
                    (ours.st_size, ours.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
                    and stat.S_IMODE(ours.st_mode) == stat.S_IMODE(status.st_mode)
                    and read_attributes(source) == read_attributes(target)
                    and same_content(source, target, status, ours)
                )
            finally:
                os.close(target)
        except PermissionError:  # the owner has locked the file, and no namespace helps
            return False
        finally:
            os.close(source)

    def open_file(self, folder: CopiedFolder, name: str) -> OpenedFile:
        """Open a file of the source, and create its copy. UnreadableFilesError, OSError."""
        source = _open_source(folder, name)
        try:
            target = os.open(name, CREATE_FLAGS, 0o600, dir_fd=folder.target.descriptor())
        except OSError:
            os.close(source)
            raise
        return OpenedFile(self, source, target)

    def copy_file(self, source: int, target: int) -> ProvenState:
        """Copy an open file to an empty one."""
        is_proven = (
            self._proof.shows_stores
            and self._proof.holds_for(file_state(os.fstat(source)))
            and write_dirty_pages(source)
        )
        status = os.fstat(source)  # after the pages are clean
        self._copy_content(source, target, status)
        copy_attributes(source, target)
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        return file_state(status), is_proven and self._proof.holds_for(file_state(status))

    def _copy_content(self, source: int, target: int, status: os.stat_result) -> None:
        if status.st_size <= SMALL_BYTES and not has_holes(status):
            while data := os.read(source, SMALL_BYTES):
                write_all(target, data)
            progress.count(size=status.st_size)
        elif self._can_share_blocks and share_blocks(source, target):
            progress.count(size=status.st_blocks * 512)
        else:
            self._can_share_blocks = False
            copy_extents(source, target, status)


class OpenedFile:
    """A file of the source, and its empty copy. One of the methods must be called, once, in any thread."""

    def __init__(self, copier: EntryCopier, source: int, target: int) -> None:
        self._copier = copier
        self._source = source
        self._target = target

    def copy(self) -> ProvenState:
        """Copy the file and close both. OSError, perhaps only when a file server learns of the end."""
        try:
            return self._copier.copy_file(self._source, self._target)
        finally:
            self.close()

    def close(self) -> None:
        """Close both. OSError."""
        try:
            os.close(self._source)
        finally:
            os.close(self._target)


def _open_source(folder: CopiedFolder, name: str) -> int:
    """Open a file of the source for reading. UnreadableFilesError, OSError."""
    try:
        return os.open(name, READ_FLAGS, dir_fd=folder.source.descriptor())
    except PermissionError as error:
        raise UnreadableFilesError from error


def is_same_file(folder: int, name: str, other_folder: int, other_name: str) -> bool:
    """Whether two names, each in an open folder of the copy, are names of one file."""
    try:
        other = os.stat(other_name, dir_fd=other_folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return other.st_ino == os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino


def is_current(folder: CopiedFolder, name: str, state: FileState) -> bool:
    """Whether a file of the source has this state, also by the file server.

    The status of a folder's entry may come from the client's cache. On NFS it may be a minute old (acregmax), and
    another machine may have written since. Opening a file makes NFS ask its server (nfs(5), "close-to-open").
    """
    try:
        descriptor = os.open(name, READ_FLAGS, dir_fd=folder.source.descriptor())
    except OSError:  # the copy of the file will report why
        return False
    try:
        return file_state(os.fstat(descriptor)) == state
    finally:
        os.close(descriptor)


def owner_record(status: os.stat_result) -> bytes:
    """Return a record of `owners` without its path; empty for an entry with the usual owners and mode of a copy."""
    special = status.st_mode & (stat.S_ISUID | stat.S_ISGID)
    if status.st_uid or status.st_gid or (special and stat.S_ISREG(status.st_mode)):
        return b"%d %d %o " % (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    return b""


def remove_entry(folder: Folder, name: bytes) -> None:
    """Remove the entry `name` with everything below it. Return if there is none. OSError."""
    try:
        os.unlink(name, dir_fd=folder.descriptor())
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        waiting = [folder.folder(name)]
    emptied = []
    while waiting:  # one branch after the other: the folders that are used next are open then
        inner = waiting.pop()
        emptied.append(inner)
        for entry in list(inner.entries()):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(inner.folder(os.fsencode(entry.name)))
            else:
                os.unlink(entry.name, dir_fd=inner.descriptor())
    for inner in reversed(emptied):
        if inner.parent is not None:
            os.rmdir(inner.name, dir_fd=inner.parent.descriptor())
