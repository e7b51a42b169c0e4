"""Copy a tree of files in two passes: most of it while it is written to, the rest during a freeze.

A target is a layer's directory: it gets `tree`, `index` and, with `squash`, `owners`. `previous` is the layer of the
last copy of the same source, or empty: a file that has not changed since is linked to that one, so a copy costs what
changed. What is written to is always a new file, so `previous` itself never changes.

`index` holds only files whose states are proven to show every later change (`entry_copy`), so that the next copy can
trust it. The second pass looks at each file
once (`copied_folders`, ADR 113), and does the rest of its work only for what is not proven to be unchanged.

Both sides are walked by descriptors: paths of any length, folders of any depth. Kept are content, holes, hard links
within the tree, modes, times, extended attributes, FIFOs, symbolic links and overlayfs' marks of deletion (character
devices 0:0, which any user may make since Linux 5.8). Sockets are not: they are names of processes that do not outlive
them.

The standard library alone: the copy of a running session runs this in its job (docs/reference/session-job.md).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from broker.volumes import progress
from broker.volumes.content import copy_attributes, file_state, sync_file_system
from broker.volumes.copied_folders import CHANGE_ERRORS, CopiedFolder, ParallelScanner
from broker.volumes.copy_index import read_index, write_index
from broker.volumes.copy_survey import check_tree
from broker.volumes.copy_threads import CopyTask, CopyThreads, is_for_threads
from broker.volumes.entry_copy import ChangeProof, EntryCopier, is_current, is_same_file, owner_record, remove_entry
from broker.volumes.trials import shows_stores
from broker.volumes.unreadable import UnreadableFiles, UnreadableFilesError, printable_path_end
from profiles.walk import FOLDER_FLAGS, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.volumes.content import FileState

TREE, INDEX, OWNERS = "tree", "index", "owners"
MAX_HARD_LINKS = 30_000
"""A file that would get more names is copied instead of linked: ext4 allows 65,000, and others not many more."""


class TreeCopy:
    """The copy of one tree. Where nothing writes, `first_pass` may be left out; then `second_pass` copies all."""

    def __init__(self, source: str, target: str, previous: str = "", *, squash: bool = False) -> None:
        """With `squash`, the copy belongs to the user who makes it, and `owners` records the owners of the other users'
        files.
        """
        self._squash = squash
        self._target = target
        os.makedirs(target, 0o700, exist_ok=True)
        os.mkdir(os.path.join(target, TREE), 0o700)
        self._from = Tree(source)
        self._to = Tree(os.path.join(target, TREE))
        self._link_from: Tree | None = None
        self._previous: dict[bytes, FileState] = {}
        if previous and os.path.isdir(os.path.join(previous, TREE)):
            self._previous = read_index(os.path.join(previous, INDEX))
            self._link_from = Tree(os.path.join(previous, TREE))
        self._root = CopiedFolder(self._from.root, self._to.root, self._link_from.root if self._link_from else None)
        self._proof = ChangeProof(os.fstat(self._to.root_descriptor).st_ctime_ns)  # the file system's own clock
        self._copier = EntryCopier(self._proof)
        self._threads = CopyThreads()
        self._is_trusted = True
        self._folders: list[CopiedFolder] = []
        """The folders that the first pass has copied, in its order."""
        self._lookers: ParallelScanner | None = None
        self._names: dict[tuple[int, int], tuple[CopiedFolder, str]] = {}
        """By device and inode, a name in the copy of a file with several names. A btrfs subvolume is a device."""
        self._stale: set[tuple[CopiedFolder, str]] = set()
        """Entries that the second pass still has to copy."""
        self._restricted: dict[CopiedFolder, int] = {}
        """Modes that would block the copy itself. They are set when it is complete."""
        self._unreadable = UnreadableFiles()
        self._reported: OSError | None = None
        """The error that ends the copy, if it has the path of its file."""

    def close(self) -> None:
        if self._lookers is not None:
            self._lookers.close()
        for tree in (self._from, self._to, self._link_from):
            if tree is not None:
                tree.close()

    def survey(self) -> None:
        """Refuse a tree that cannot be copied, before the session is frozen: `copy_survey.check_tree`."""
        check_tree(self._from, self._target, self._previous)

    def prepare(self) -> None:
        """Write the dirty pages of the source to disk: all at once is faster than file by file."""
        with contextlib.suppress(OSError):  # of other files, perhaps; those of the source are looked at one by one
            sync_file_system(self._from.root_descriptor)

    def mark_drained(self) -> None:
        """Note that every system call and page fault of the writers that began before now has ended."""
        self._proof.mark_drained()

    def mark_untrusted(self) -> None:
        """Let no later copy trust this one: some writer was not frozen."""
        self._is_trusted = False

    def first_pass(self) -> None:
        """Copy the source while it changes; `second_pass` copies later changes. UnreadableFilesError, OSError."""
        self._from.refresh()
        source, target = self._from.root_descriptor, self._to.root_descriptor
        is_same_system = os.fstat(source).st_dev == os.fstat(target).st_dev
        self._proof.shows_stores = self._proof.is_drained and is_same_system and shows_stores(self._target)
        with self._all_copied():
            self._copy_below(self._root, self._folders)
        self._unreadable.refuse()
        self._previous.clear()
        self._lookers = ParallelScanner(self._from, self._folders)
        with contextlib.suppress(OSError):  # so that the system has at hand what the second pass asks for
            self._lookers.look()

    def second_pass(self) -> None:
        """Make the copy equal to the source, whose writers must be frozen. UnreadableFilesError, OSError."""
        self._proof.is_frozen = True
        with self._all_copied():
            if self._lookers is None:
                self._copy_below(self._root, self._folders)
            else:
                self._update(self._lookers)
        self._unreadable.refuse()

    def complete(self) -> None:
        """Write the files that the next copy builds on. The copy is complete after this. OSError."""
        folders = list(self._root.walk())
        for folder in reversed(folders):
            if (mode := self._restricted.get(folder)) is not None:
                os.fchmod(folder.target.descriptor(), mode)
        proven = (
            (path, state)
            for folder in folders
            for name, state in folder.proven.items()
            if (path := folder.below(name)) is not None
        )
        write_index(os.path.join(self._target, INDEX), proven if self._is_trusted else ())
        if self._squash:
            with open(os.path.join(self._target, OWNERS), "wb") as file:
                for folder in folders:
                    if folder.owner:
                        file.write(folder.owner + (folder.source.path or b".") + b"\0")
                    file.writelines(
                        owner + folder.source.below(os.fsencode(name)) + b"\0" for name, owner in folder.owners.items()
                    )

    def flush(self) -> None:
        """Write everything to disk, for a copy that a record will name. OSError if that failed."""
        sync_file_system(self._to.root_descriptor)

    def _update(self, lookers: ParallelScanner) -> None:
        """Bring the changes since the first pass into the copy."""
        changes = [(self._folders[change.number], change) for change in lookers.look()]
        self._stale = {(folder, name) for folder, change in changes for name in change.names}
        for folder, change in changes:
            if not folder.is_in_copy():
                continue
            with self._tolerance(folder):
                for name in folder.folders.keys() & change.names:  # something else now: what it had is no more
                    self._clear(folder, name)
                if change.has_lost:
                    self._remove_others(folder)
        for folder, change in changes:
            if folder.is_in_copy():
                for name in change.names:
                    with self._tolerance(folder, name):
                        self._update_entry(folder, name)
                with self._tolerance(folder):
                    self._copy_folder_properties(folder, os.fstat(folder.source.descriptor()))

    def _update_entry(self, folder: CopiedFolder, name: str) -> None:
        try:
            status = os.stat(name, dir_fd=folder.source.descriptor(), follow_symlinks=False)
        except FileNotFoundError:  # some writer is not frozen
            self._clear(folder, name)
            return
        for made in self._copy_entry(folder, name, status):
            self._copy_below(made, [])

    def _copy_below(self, folder: CopiedFolder, copied: list[CopiedFolder]) -> None:
        """Copy a folder, which the copy has and which is still empty, with everything below it. `copied` gets every
        folder.
        """
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            copied.append(current)
            with self._tolerance(current):
                status, entries = self._list(current)
                for name, entry in entries:
                    with self._tolerance(current, name):
                        waiting += self._copy_entry(current, name, entry)
                self._copy_folder_properties(current, status)

    @contextlib.contextmanager
    def _tolerance(self, folder: CopiedFolder, name: str = "") -> Iterator[None]:
        """Leave to the second pass what changes during the first one, and note what cannot be read."""
        try:
            yield
        except UnreadableFilesError:
            folder.is_whole = False
            path = folder.source.below(os.fsencode(name)) if name else folder.source.path
            self._unreadable.add(path or b".", is_folder=not name)
        except OSError as error:
            folder.is_whole = False
            is_frozen = self._proof.is_frozen and self._is_trusted
            if is_frozen or error.errno not in CHANGE_ERRORS:
                if error is not self._reported:  # by the context of an entry in this folder
                    path = folder.source.below(os.fsencode(name)) if name else folder.source.path
                    error.filename = printable_path_end(path)
                    self._reported = error
                raise

    def _list(self, folder: CopiedFolder) -> tuple[os.stat_result, list[tuple[str, os.stat_result]]]:
        """Return the status of a folder of the source before it was listed, and its entries."""
        entries = []
        try:
            descriptor = folder.source.descriptor()
            status = os.fstat(descriptor)
            with os.scandir(descriptor) as found:
                for entry in found:
                    with contextlib.suppress(FileNotFoundError):
                        entries.append((entry.name, entry.stat(follow_symlinks=False)))
        except PermissionError as error:
            raise UnreadableFilesError from error
        return status, entries

    def _copy_entry(self, folder: CopiedFolder, name: str, status: os.stat_result) -> list[CopiedFolder]:
        """Bring one entry into the copy. Return the new folder, if it is one, whose entries must follow."""
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            self._clear(folder, name)
            os.mkdir(name, 0o700, dir_fd=folder.target.descriptor())
            return [folder.folder(name)]
        if stat.S_ISSOCK(mode):
            self._clear(folder, name)
        else:
            self._copy_leaf(folder, name, status)
            self._stale.discard((folder, name))
        return []

    def _copy_leaf(self, folder: CopiedFolder, name: str, status: os.stat_result) -> None:
        """Bring one entry that is no folder into the copy."""
        state = file_state(status)
        existing = self._find_other_name(status) if status.st_nlink > 1 else None
        if existing is not None and self._link(existing, folder, name):
            known = existing[0].proven.get(existing[1])
            self._note(folder, name, known or state, is_proven=known is not None)
            self._note_owner(folder, name, status)
            return
        if existing is None and self._link_previous(folder, name, status):
            self._note(folder, name, state, is_proven=True)
        elif (
            existing is not None
            or folder.unproven.get(name) != state
            or not self._copier.is_equal(folder, name, status)
        ):
            self._clear(folder, name)
            if is_for_threads(status):
                self._threads.submit(CopyTask(folder, name, self._copier.open_file(folder, name)))
                self._note_copied()
            else:
                state, is_proven = self._copier.copy(folder, name, status)
                progress.count(files=1)
                self._note(folder, name, state, is_proven=is_proven)
        if status.st_nlink > 1:
            self._names[status.st_dev, status.st_ino] = (folder, name)
        self._note_owner(folder, name, status)

    @contextlib.contextmanager
    def _all_copied(self) -> Iterator[None]:
        """At the end, wait for the copies in threads and note them. No thread is left: later passes make processes."""
        with self._threads:
            yield
            self._note_copied(wait=True)

    def _note_copied(self, *, wait: bool = False) -> None:
        for task in self._threads.take_finished(wait=wait):
            with self._tolerance(task.folder, task.name):
                state, is_proven = task.result()
                progress.count(files=1)
                self._note(task.folder, task.name, state, is_proven=is_proven)

    @staticmethod
    def _note(folder: CopiedFolder, name: str, state: FileState, *, is_proven: bool) -> None:
        for known in (folder.proven, folder.unproven, folder.folders):
            known.pop(name, None)
        (folder.proven if is_proven else folder.unproven)[name] = state

    def _find_other_name(self, status: os.stat_result) -> tuple[CopiedFolder, str] | None:
        """Return a name that the copy has of the same file. Another file may have got the noted name since."""
        found = self._names.get((status.st_dev, status.st_ino))
        if found is None or found in self._stale or not found[0].is_in_copy():
            return None
        folder, name = found
        known = folder.proven.get(name) or folder.unproven.get(name)
        return found if known is not None and known[0] == status.st_ino else None

    def _link(self, existing: tuple[CopiedFolder, str], folder: CopiedFolder, name: str) -> bool:
        """Give a file of the copy one more name. False if it has as many as the file system allows."""
        other = os.dup(existing[0].target.descriptor())  # which opening the second folder may close
        try:
            here = folder.target.descriptor()
            if folder.holds(name):
                if is_same_file(other, existing[1], here, name):
                    return True
                self._clear(folder, name)
                here = folder.target.descriptor()
            os.link(existing[1], name, src_dir_fd=other, dst_dir_fd=here, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            return False
        finally:
            os.close(other)
        return True

    def _link_previous(self, folder: CopiedFolder, name: str, status: os.stat_result) -> bool:
        """Link an unchanged file of the previous copy. False if the file must be copied."""
        path = folder.below(name) if self._previous else None
        if path is None or folder.previous is None or self._previous.get(path) != file_state(status):
            return False
        if stat.S_ISREG(status.st_mode) and not is_current(folder, name, file_state(status)):
            return False
        self._clear(folder, name)
        try:
            there = folder.previous.descriptor()
            if status.st_nlink > 1:  # its other names follow, and all have to be names of one file
                names = os.stat(name, dir_fd=there, follow_symlinks=False).st_nlink
                if names + status.st_nlink > MAX_HARD_LINKS:
                    return False
            here = folder.target.descriptor()
            os.link(name, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        except OSError:  # gone, or has as many links as the file system allows
            return False
        return True

    def _copy_folder_properties(self, folder: CopiedFolder, status: os.stat_result) -> None:
        """Give a folder its attributes, times and mode, once its entries are in place."""
        try:
            source = folder.source.descriptor()
        except PermissionError as error:
            raise UnreadableFilesError from error
        target = folder.target.descriptor()
        copy_attributes(source, target)
        mode = stat.S_IMODE(status.st_mode)
        self._restricted.pop(folder, None)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            self._restricted[folder] = mode
        os.fchmod(target, mode | stat.S_IRWXU)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        state = file_state(status)
        folder.proof = state if self._proof.holds_for(state) else None
        folder.owner = self._owner(status)

    def _remove_others(self, folder: CopiedFolder) -> None:
        """Remove entries from the copy that the source does not have any more."""
        there = set(os.listdir(folder.source.descriptor()))
        listed = os.open(
            b".", FOLDER_FLAGS, dir_fd=folder.target.descriptor()
        )  # with all that came since (Tree.refresh)
        try:
            ours = set(os.listdir(listed))
        finally:
            os.close(listed)
        for name in ours - there:
            self._clear(folder, name)

    def _clear(self, folder: CopiedFolder, name: str) -> None:
        """Remove the entry of this name from the copy."""
        if folder.holds(name):
            remove_entry(folder.target, os.fsencode(name))
            folder.forget(name)

    def _note_owner(self, folder: CopiedFolder, name: str, status: os.stat_result) -> None:
        folder.owners.pop(name, None)
        if owner := self._owner(status):
            folder.owners[name] = owner

    def _owner(self, status: os.stat_result) -> bytes:
        return owner_record(status) if self._squash else b""


def copy_tree(source: str, target: str, previous: str = "") -> None:
    """Copy a tree without writers. UnreadableFilesError, OSError."""
    copy = TreeCopy(source, target, previous)
    try:
        copy.second_pass()
        copy.complete()
        copy.flush()
    finally:
        copy.close()
