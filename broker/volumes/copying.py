"""Copies a tree of files in two passes: most of it while it is being written to, the rest while it stands still.

This file stands alone, on the standard library: it is also run by itself inside a session's job, where nothing of
Berth is installed (docs/reference/session-job.md):

    python3 -I copying.py [--drain] [--squash] SOURCE TARGET PREVIOUS [SOURCE TARGET PREVIOUS]

With --drain it writes `ready`, waits until the caller has frozen the writers and has written a line, and writes
`drained`: the writers may go on. It writes `copied` when the first pass is over, waits for a line, copies what has
changed since, writes `still` when the source may change again, and `done` when the copy is on disk. The caller's lines
are `all`, or `some` if a writer could not be frozen.
A target is a layer's directory: it gets `tree`, `index` and, with --squash, `owners`. PREVIOUS is the layer of the
last copy of the same source, or empty: a file that has not changed since is linked to that one, so a copy costs what
changed. What is written to is always a new file, so PREVIOUS itself never changes.

A file counts as unchanged only if that is proven; otherwise the second pass reads it (ADR 106). Time stamps alone prove
nothing: a store into a page of a mapping that is dirty already changes none, and a long write(2) changes them once, at
its beginning. They are a proof if

- every system call and page fault that was under way ended before the first pass (the freeze of --drain),
- the file's dirty pages were written out before the time stamps were read: the next store must fault, and that changes
  the time of change. A file of the program's own shows first that the file system does so, and
- the file's time of change was older than RACY_NS then, so that a later change has another one.

`index` holds only files of which this holds, so that the next copy can trust it.

Kept are content, holes, hard links within the tree, modes, times, extended attributes, FIFOs, symbolic links and
overlayfs' marks of deletion (character devices 0:0, which any user may make since Linux 5.8). Sockets are not: they
are names of processes that do not outlive them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import stat
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBC = ctypes.CDLL(None, use_errno=True)
TREE, INDEX, OWNERS = "tree", "index", "owners"
FICLONE = 0x40049409  # ioctl_ficlone(2)
RACY_NS = 2 * 10**9
"""A file that changed so shortly before it was looked at may change again without another time stamp, whose steps are
as coarse as a kernel's tick or a file server's clock."""
WRITE_OUT = 7
"""Wait before, write, wait after: sync_file_range(2)."""
TRIAL_S = 0.5
"""Time for a store of this program to show in a time stamp: the clock of the slowest file servers has coarser steps,
and is not trusted."""
TRIAL_STEP_S = 0.005
"""A little more than a kernel's tick, which is the step of most time stamps."""
INDEX_HEAD = b"proven"
"""The first record of an index. Those without it hold files whose later changes may show nowhere."""
MOST_NAMES = 30_000
"""A file that would get more names is copied instead of linked: ext4 allows 65,000, and others not many more."""
SMALL = 1 << 16
CHUNK = 1 << 24
INDEX_BYTES = 1 << 30
"""Limit for an index that is read: some ten million files. A larger one is taken for none, so all is copied."""
RECORD_BYTES = 4096 + 84
"""Limit for one record of an index: PATH_MAX in limits.h, four numbers of 20 digits, and blanks."""
COMPARED_BYTES = 1 << 20
"""Bytes that are compared at once: a piece that fits into a processor's cache together with its copy."""
KEPT_MARKS = frozenset({"user.overlay.opaque", "user.overlay.whiteout", "user.overlay.whiteouts"})
"""Of overlayfs' attributes only these are content; the others are about inodes that a copy does not have."""
CHANGED_MEANWHILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.EEXIST, errno.ESTALE, errno.ENXIO}
)
"""What the first pass meets where something became something else under its eyes: the second one sees to it."""
UNREADABLE = "its mode forbids even its owner to read it, which chmod u+rX mends"
"""Said of what cannot be copied. On a local disk root of a user namespace reads it all the same; a file server knows
the user alone."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
NOT_CLONABLE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM})

Seen = tuple[int, int, int, int]
"""Inode, time of change and of modification in nanoseconds, size: while they stay, so does the file."""


class Copy:
    """One tree being copied. `first` may be left out where nothing writes; then `second` copies everything."""

    def __init__(self, source: str, target: str, previous: str = "", *, squash: bool = False) -> None:
        """With `squash` the copy is its maker's own, and what belonged to others is written down in `owners`."""
        self._squash = squash
        self._target = target
        self._clones = True
        os.makedirs(target, 0o700, exist_ok=True)
        os.mkdir(os.path.join(target, TREE), 0o700)
        self._from = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
        self._folder = -1
        """The folder of the source that was listed last, open: what is in it is found in there, whatever its path has
        come to mean since."""
        self._to = os.open(os.path.join(target, TREE), os.O_RDONLY | os.O_DIRECTORY)
        began = os.fstat(self._to).st_ctime_ns  # the file system's own clock
        self._clock = began - time.monotonic_ns()
        self._seen: dict[bytes, Seen] = {}
        """Files in the copy whose inode, times and size are proven to show every later change."""
        self._doubtful: dict[bytes, Seen] = {}
        """Files that the first pass copied and that may change without showing it."""
        self._drained: int | None = None
        """By the file system's clock: system calls that began earlier were over then. None: nothing is known."""
        self._notices_stores = False
        self._is_frozen = False
        self._is_heritable = True
        self._owners: list[bytes] = []
        self._previous: dict[bytes, Seen] = {}
        self._link_from = -1
        if previous and os.path.isdir(os.path.join(previous, TREE)):
            self._previous = read_index(os.path.join(previous, INDEX))
            self._link_from = os.open(os.path.join(previous, TREE), os.O_RDONLY | os.O_DIRECTORY)
        self.files = 0
        self.bytes = 0

    def close(self) -> None:
        for fd in (self._from, self._to, self._link_from, self._folder):
            if fd >= 0:
                os.close(fd)

    def require_room(self) -> None:
        """OSError with ENOSPC if what has to be copied is more than what is free; what can be shared takes none."""
        wanted = 0
        counted: set[int] = set()
        waiting = [b"."]
        while waiting:
            folder = waiting.pop()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for name, entry in self._list(folder)[0]:
                    path = name if folder == b"." else folder + b"/" + name
                    if stat.S_ISDIR(entry.st_mode):
                        waiting.append(path)
                    elif self._previous.get(path) != _seen(entry) and entry.st_ino not in counted:
                        wanted += entry.st_blocks * 512
                        if entry.st_nlink > 1:
                            counted.add(entry.st_ino)
        room = os.fstatvfs(self._to)
        free = room.f_bavail * room.f_frsize
        if wanted > free and not self._can_clone():
            said = f"{os.strerror(errno.ENOSPC)}: the copy needs {wanted >> 20} MiB, and {free >> 20} MiB are free"
            raise OSError(errno.ENOSPC, said)

    def _can_clone(self) -> bool:
        """Whether this file system shares blocks, found by trying with a file of our own."""
        pair = [os.open(os.path.join(self._target, name), os.O_RDWR | os.O_CREAT, 0o600) for name in ("try", "trial")]
        try:
            os.write(pair[0], b"x" * 4096)
            fcntl.ioctl(pair[1], FICLONE, pair[0])
        except OSError:
            return False
        finally:
            for fd, name in zip(pair, ("try", "trial"), strict=True):
                os.close(fd)
                os.unlink(os.path.join(self._target, name))
        return True

    def prepare(self) -> None:
        """Write out what is dirty in the source: all at once is faster than file by file."""
        with contextlib.suppress(OSError):  # of other files, perhaps; those of the source are looked at one by one
            flush(self._from)

    def mark_drained(self) -> None:
        """Note that every system call and page fault of the writers is over that began before now."""
        self._drained = self._now()

    def disinherit(self) -> None:
        """Let no later copy trust this one: some writer did not stand still."""
        self._is_heritable = False

    def first(self) -> None:
        """Copy what is there; what vanishes or changes meanwhile is left to `second`."""
        self._notices_stores = self._drained is not None and self._try_store()
        self._pass(settled=False)

    def second(self) -> None:
        """Make the copy equal to the source, which must stand still, and write down what the next copy can build on."""
        self._owners.clear()
        self._is_frozen = True
        self._pass(settled=True)

    def write_index(self) -> None:
        """Write `index`, and `owners` where asked for; the copy is complete after this."""
        proven = self._seen if self._is_heritable else {}
        with open(os.path.join(self._target, INDEX), "wb") as file:
            file.write(INDEX_HEAD + b"\0")
            file.writelines(b"%d %d %d %d %s\0" % (*seen, path) for path, seen in proven.items())
        if self._squash:
            with open(os.path.join(self._target, OWNERS), "wb") as file:
                file.write(b"".join(self._owners))

    def flush(self) -> None:
        """Have everything on disk, for a copy that somebody will rely on; OSError if that did not work."""
        flush(self._to)

    def _now(self) -> int:
        """The file system's own clock."""
        return self._clock + time.monotonic_ns()

    def _try_store(self) -> bool:
        """Whether the source's file system shows a store into a clean page of a mapping, found with a file of its own.

        It does not if it writes nothing out (tmpfs), or changes times only when it does (FUSE).
        """
        if os.fstat(self._from).st_dev != os.fstat(self._to).st_dev:
            return False
        path = os.path.join(self._target, "trial")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, b"x" * mmap.PAGESIZE)
            with mmap.mmap(fd, mmap.PAGESIZE) as mapped:
                deadline = time.monotonic() + TRIAL_S
                while time.monotonic() < deadline:
                    mapped[0] = 1
                    if not _write_out(fd):
                        return False
                    before = _seen(os.fstat(fd))
                    time.sleep(TRIAL_STEP_S)
                    mapped[0] = 2
                    if _seen(os.fstat(fd)) != before:
                        return True
            return False
        except OSError:
            return False
        finally:
            os.close(fd)
            os.unlink(path)

    def _is_old(self, seen: Seen) -> bool:
        """Whether a change that began after the writers were drained has another time stamp than this."""
        return self._drained is not None and seen[1] < self._drained - RACY_NS

    def _pass(self, *, settled: bool) -> None:
        fresh: dict[bytes, Seen] = {}
        placed: dict[int, bytes] = {}
        later: list[tuple[bytes, os.stat_result]] = []
        waiting = [b"."]
        while waiting:
            folder = waiting.pop()
            try:
                entries, status = self._list(folder)
            except OSError as error:
                if settled or error.errno not in CHANGED_MEANWHILE:
                    raise
                continue
            later.append((folder, status))
            if settled:
                self._remove_others(folder, {name for name, _ in entries})
            for name, entry in entries:
                path = name if folder == b"." else folder + b"/" + name
                try:
                    if stat.S_ISDIR(entry.st_mode):
                        self._make_folder(path)
                        waiting.append(path)
                    else:
                        self._place(path, entry, fresh, placed)
                except OSError as error:
                    if settled or error.errno not in CHANGED_MEANWHILE:
                        raise located(error, path) from error
        for folder, status in reversed(later):
            self._note_owner(folder, status)
            self._dress_folder(folder, status, settled=settled)
        self._seen = fresh

    def _list(self, folder: bytes) -> tuple[list[tuple[bytes, os.stat_result]], os.stat_result]:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        entries = []
        try:
            self._folder = self._open_folder(folder)
            with os.scandir(self._folder) as found:
                for entry in found:
                    with contextlib.suppress(FileNotFoundError):
                        entries.append((os.fsencode(entry.name), entry.stat(follow_symlinks=False)))
            return entries, os.fstat(self._folder)
        except OSError as error:
            raise located(error, folder) from error

    def _open_folder(self, path: bytes) -> int:
        """Open a folder of the source one step after the other: the session may have put a link in the place of any."""
        fd = os.open(b".", FOLDER, dir_fd=self._from)
        for name in path.split(b"/"):
            try:
                inner = os.open(name, FOLDER, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def _place(self, path: bytes, entry: os.stat_result, fresh: dict[bytes, Seen], placed: dict[int, bytes]) -> None:
        """Bring one entry that is no folder into the copy."""
        if stat.S_ISSOCK(entry.st_mode):
            return
        self._note_owner(path, entry)
        linked = entry.st_nlink > 1
        first = placed.get(entry.st_ino) if linked else None
        if first is not None and self._link(first, path):
            if first in fresh:
                fresh[path] = fresh[first]
            return
        seen = _seen(entry)
        if first is None and (self._seen.get(path) == seen or self._link_previous(path, entry)):
            fresh[path] = seen
        elif first is not None or not (self._doubtful.get(path) == seen and self._is_equal(path, entry)):
            self._clear(path)
            seen, proven = self._copy(path, entry)
            if proven:
                fresh[path] = seen
            elif not self._is_frozen:
                self._doubtful[path] = seen
        if linked:
            placed[entry.st_ino] = path

    def _link(self, existing: bytes, path: bytes) -> bool:
        """Give a file of the copy a further name; False if it has as many as the file system allows."""
        if self._is_frozen and self._is_one_file(existing, path):
            return True
        self._clear(path)
        try:
            os.link(existing, path, src_dir_fd=self._to, dst_dir_fd=self._to, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            return False
        return True

    def _is_one_file(self, existing: bytes, path: bytes) -> bool:
        """Whether both are names of the same file of the copy."""
        try:
            found = os.stat(path, dir_fd=self._to, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return found.st_ino == os.stat(existing, dir_fd=self._to, follow_symlinks=False).st_ino

    def _link_previous(self, path: bytes, entry: os.stat_result) -> bool:
        """Take a file that has not changed since from the previous copy; False if it has to be copied."""
        if self._previous.get(path) != _seen(entry):
            return False
        self._clear(path)
        try:
            if entry.st_nlink > 1:  # its other names follow, and all have to be names of one file
                names = os.stat(path, dir_fd=self._link_from, follow_symlinks=False).st_nlink
                if names + entry.st_nlink > MOST_NAMES:
                    return False
            os.link(path, path, src_dir_fd=self._link_from, dst_dir_fd=self._to, follow_symlinks=False)
        except OSError:  # gone, or has as many links as the file system allows
            return False
        return True

    def _copy(self, path: bytes, entry: os.stat_result) -> tuple[Seen, bool]:
        """Copy one entry; what it was when the copy began, and whether it is proven to show every change since."""
        mode = entry.st_mode
        if stat.S_ISREG(mode):
            return self._copy_file(path)
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(_name(path), dir_fd=self._folder), path, dir_fd=self._to)
        else:  # a FIFO, or overlayfs' mark of deletion
            os.mknod(path, mode, entry.st_rdev, dir_fd=self._to)
            os.chmod(path, stat.S_IMODE(mode), dir_fd=self._to)
        os.utime(path, ns=(entry.st_atime_ns, entry.st_mtime_ns), dir_fd=self._to, follow_symlinks=False)
        return _seen(entry), not self._is_frozen and self._is_old(_seen(entry))

    def _copy_file(self, path: bytes) -> tuple[Seen, bool]:
        source = os.open(_name(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._folder)
        try:
            proven = (
                not self._is_frozen
                and self._notices_stores
                and self._is_old(_seen(os.fstat(source)))
                and _write_out(source)
            )
            status = os.fstat(source)  # after the pages are clean
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=self._to)
            try:
                self._copy_content(source, target, status)
                copy_attributes(source, target)
                os.fchmod(target, stat.S_IMODE(status.st_mode))
                os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(target)  # a file server may say only here that there is no space: then this raises
        finally:
            os.close(source)
        self.files += 1
        self.bytes += status.st_size
        return _seen(status), proven and self._is_old(_seen(status))

    def _is_equal(self, path: bytes, entry: os.stat_result) -> bool:
        """Whether the copy of a file is as the source, which stands still. A large one is rather shared anew."""
        if not self._is_frozen or not stat.S_ISREG(entry.st_mode) or (self._clones and entry.st_size > SMALL):
            return False
        source = os.open(_name(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._folder)
        try:
            target = os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._to)
            try:
                ours = os.fstat(target)
                return (
                    (ours.st_size, ours.st_mtime_ns) == (entry.st_size, entry.st_mtime_ns)
                    and stat.S_IMODE(ours.st_mode) == stat.S_IMODE(entry.st_mode)
                    and attributes(source) == attributes(target)
                    and _same_content(source, target, entry, ours)
                )
            finally:
                os.close(target)
        except PermissionError:  # of a file that its owner has locked, where no namespace helps
            return False
        finally:
            os.close(source)

    def _copy_content(self, source: int, target: int, status: os.stat_result) -> None:
        if status.st_size <= SMALL and not _has_holes(status):
            while data := os.read(source, SMALL):
                _write_all(target, data)
        elif not self._clones or not _clone(source, target):
            self._clones = False
            _copy_extents(source, target, status)

    def _make_folder(self, path: bytes) -> None:
        try:
            os.mkdir(path, 0o700, dir_fd=self._to)
        except FileExistsError:
            status = os.stat(path, dir_fd=self._to, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.chmod(path, 0o700, dir_fd=self._to)
            else:
                os.unlink(path, dir_fd=self._to)
                os.mkdir(path, 0o700, dir_fd=self._to)

    def _dress_folder(self, path: bytes, status: os.stat_result, *, settled: bool) -> None:
        """Give a folder its attributes, times and mode, once everything below it is in place."""
        try:
            source = self._open_folder(path)
        except OSError as error:
            if settled or error.errno not in CHANGED_MEANWHILE:
                raise
            return
        try:
            target = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._to)
            try:
                copy_attributes(source, target)
                os.fchmod(target, stat.S_IMODE(status.st_mode) if settled else 0o700)
                os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _remove_others(self, folder: bytes, names: set[bytes]) -> None:
        """Remove from the copy what the source does not have any more."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._to)
        try:
            with os.scandir(fd) as found:
                gone = [os.fsencode(entry.name) for entry in found if os.fsencode(entry.name) not in names]
        finally:
            os.close(fd)
        for name in gone:
            self._clear(name if folder == b"." else folder + b"/" + name)

    def _clear(self, path: bytes) -> None:
        """Remove whatever the copy has at `path`."""
        try:
            os.unlink(path, dir_fd=self._to)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._to)
            try:
                names = os.listdir(fd)
            finally:
                os.close(fd)
            for name in names:
                self._clear(path + b"/" + os.fsencode(name))
            os.rmdir(path, dir_fd=self._to)

    def _note_owner(self, path: bytes, status: os.stat_result) -> None:
        special = status.st_mode & (stat.S_ISUID | stat.S_ISGID)
        if self._squash and (status.st_uid or status.st_gid or (special and stat.S_ISREG(status.st_mode))):
            record = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), path)
            self._owners.append(b"%d %d %o %s\0" % record)


def located(error: OSError, path: bytes) -> OSError:
    """Return the error with the place in the tree where it was met, and what to do if that is in the user's hands."""
    words = UNREADABLE if error.errno == errno.EACCES else error.strerror
    name = "".join(each if each.isprintable() else "?" for each in os.fsdecode(path))
    return OSError(error.errno, words, name)


def flush(fd: int) -> None:
    """Have all of a file system on disk (syncfs(2)); OSError with what it could not write."""
    if LIBC.syncfs(fd) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def duplicate(source: str, target: str) -> None:
    """Make a file, or a symbolic link, that is as another one in all but its inode. Raises OSError."""
    status = os.lstat(source)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
        return
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), source)
    read = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        written = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            if not _clone(read, written):
                _copy_extents(read, written, status)
            copy_attributes(read, written)
            os.fchmod(written, stat.S_IMODE(status.st_mode))
            os.utime(written, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(written)
    finally:
        os.close(read)


def _clone(source: int, target: int) -> bool:
    """Have a new file share the blocks of another; False where the file system does not."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno not in NOT_CLONABLE:
            raise
        return False
    return True


def _copy_extents(source: int, target: int, status: os.stat_result) -> None:
    size = status.st_size
    for begin, end in _extents(source, size) if _has_holes(status) else [(0, size)]:
        _copy_range(source, target, begin, end)
    os.ftruncate(target, size)


def _write_out(fd: int) -> bool:
    """Write a file's dirty pages out and wait for it: the next store into each of them faults. False if it failed."""
    begin, length = ctypes.c_int64(0), ctypes.c_int64(0)  # to its end
    return bool(LIBC.sync_file_range(fd, begin, length, ctypes.c_uint(WRITE_OUT)) == 0)


def attributes(fd: int) -> dict[str, bytes]:
    """The extended attributes and access lists that a copy keeps."""
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd) if _kept(name)}


def copy_attributes(source: int, target: int) -> None:
    """Make the user's extended attributes and the access lists of `target` those of `source`, both open files."""
    wanted = attributes(source)
    for name in os.listxattr(target):
        if _kept(name) and name not in wanted:
            os.removexattr(target, name)
    for name, value in wanted.items():
        try:
            os.setxattr(target, name, value)
        except OSError as error:
            if name.startswith("user.") or error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}:
                raise


def dress_folder(source: int, target: int) -> None:
    """Give the open folder `target` the attributes, mode and times of `source`; it hides nothing by them."""
    copy_attributes(source, target)
    for mark in KEPT_MARKS.intersection(os.listxattr(target)):
        os.removexattr(target, mark)
    status = os.fstat(source)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _kept(name: str) -> bool:
    if name.startswith("user.overlay.") and not name.startswith("user.overlay.overlay."):  # a session's own, escaped
        return name in KEPT_MARKS
    return name.startswith(("user.", "system.posix_acl_"))


def read_index(path: str) -> dict[bytes, Seen]:
    """Return what an index says, by path; nothing without a file that is an index and says what is proven."""
    found = {}
    try:
        records = _records(path)
        if next(records, b"") != INDEX_HEAD:
            return {}
        for record in records:
            inode, changed, modified, size, name = record.split(b" ", 4)
            found[name] = (int(inode), int(changed), int(modified), int(size))
    except (OSError, ValueError):
        return {}
    return found


def _records(path: str) -> Iterator[bytes]:
    """Yield what NULs end in a file that its owner may have replaced by anything; ValueError if it is no index.

    As read_records of profiles.userfile, which is not there where this file runs by itself.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("an index is a regular file")
        total, rest = 0, b""
        while piece := file.read(SMALL):
            total += len(piece)
            *whole, rest = (rest + piece).split(b"\0")
            if total > INDEX_BYTES or len(rest) > RECORD_BYTES:
                raise ValueError("this is too long for an index")
            yield from whole


def _seen(status: os.stat_result) -> Seen:
    return (status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _has_holes(status: os.stat_result) -> bool:
    return status.st_blocks * 512 < status.st_size


def _extents(fd: int, size: int) -> list[tuple[int, int]]:
    """Where the data of a file lies, as pairs of begin and end (lseek(2), SEEK_DATA)."""
    extents = []
    end = 0
    while end < size:
        try:
            begin = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            return [(0, size)]  # a file system that does not tell
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        extents.append((begin, end))
    return extents


def _same_content(source: int, target: int, theirs: os.stat_result, ours: os.stat_result) -> bool:
    size = theirs.st_size
    ranges = [(0, size)]
    if _has_holes(theirs) or _has_holes(ours):  # a hole may be as long as a file system
        ranges = sorted({*_extents(source, size), *_extents(target, size)})
    for begin, end in ranges:
        for at in range(begin, end, COMPARED_BYTES):
            length = min(COMPARED_BYTES, end - at)
            if os.pread(source, length, at) != os.pread(target, length, at):
                return False
    return True


def _copy_range(source: int, target: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            copied = os.copy_file_range(source, target, min(CHUNK, end - begin), begin, begin)
        except OSError as error:
            if error.errno not in NOT_CLONABLE:
                raise
            data = os.pread(source, min(CHUNK, end - begin), begin)
            copied = len(data)
            os.lseek(target, begin, os.SEEK_SET)
            _write_all(target, data)
        if copied == 0:  # it was cut short meanwhile
            return
        begin += copied


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _frozen(word: str, copies: list[Copy]) -> bool:
    """Ask the caller to freeze the writers and wait until it has; False if it does not want the copy any more."""
    print(word, flush=True)
    line = sys.stdin.readline()
    if line.strip() == "some":
        for copy in copies:
            copy.disinherit()
    return bool(line)


def _drained(copies: list[Copy]) -> bool:
    for copy in copies:
        copy.prepare()
    if not _frozen("ready", copies):
        return False
    for copy in copies:
        copy.mark_drained()
    print("drained", flush=True)
    return True


def main(arguments: list[str]) -> int:
    options = list(itertools.takewhile(lambda word: word.startswith("--"), arguments))
    words = arguments[len(options) :]
    if not words or len(words) % 3 or {*options} - {"--drain", "--squash"}:
        print("usage: copying.py [--drain] [--squash] SOURCE TARGET PREVIOUS …", file=sys.stderr)
        return 2
    os.umask(0o077)
    try:
        squash = "--squash" in options
        copies = [Copy(*words[index : index + 3], squash=squash) for index in range(0, len(words), 3)]
        for copy in copies:
            copy.require_room()
        if "--drain" in options and not _drained(copies):
            return 3
        for copy in copies:
            copy.first()
        if not _frozen("copied", copies):
            return 3
        for copy in copies:
            copy.second()
        print("still", flush=True)
        for copy in copies:
            copy.write_index()
            copy.flush()
        print("done", flush=True)
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        print(f"{error.strerror}{where}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
