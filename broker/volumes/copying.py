"""Copies a tree of files in two passes: most of it while it is being written to, the rest while it stands still.

This file stands alone, on the standard library: it is also run by itself inside a session's job, where nothing of
Berth is installed (docs/reference/session-job.md):

    python3 -I copying.py [--squash] SOURCE TARGET PREVIOUS [SOURCE TARGET PREVIOUS]

It writes `copied` when the first pass is over, waits for a line, copies what has changed since, writes `still` when
the source may change again, and `done` when the copy is on disk.
A target is a layer's directory: it gets `tree`, `index` and, with --squash, `owners`. PREVIOUS is the layer of the
last copy of the same source, or empty: a file that has not changed since is linked to that one, so a copy costs what
changed. What is written to is always a new file, so PREVIOUS itself never changes.

Kept are content, holes, hard links within the tree, modes, times, extended attributes, FIFOs, symbolic links and
overlayfs' marks of deletion (character devices 0:0, which any user may make since Linux 5.8). Sockets are not: they
are names of processes that do not outlive them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import sys
import time

TREE, INDEX, OWNERS = "tree", "index", "owners"
FICLONE = 0x40049409  # ioctl_ficlone(2)
RACY = 2 * 10**9
"""Nanoseconds: a file that changed so shortly before it was looked at may change again without another time stamp,
whose steps are as coarse as a kernel's tick or a file server's clock."""
SMALL = 1 << 16
CHUNK = 1 << 24
KEPT_MARKS = frozenset({"user.overlay.opaque", "user.overlay.whiteout", "user.overlay.whiteouts"})
"""Of overlayfs' attributes only these are content; the others are about inodes that a copy does not have."""
CHANGED_MEANWHILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.EEXIST, errno.ESTALE, errno.ENXIO}
)
"""What the first pass meets where something became something else under its eyes: the second one sees to it."""
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
        """What was copied in the last pass and will show it if it changes."""
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
        waiting = [b"."]
        while waiting:
            folder = waiting.pop()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for name, entry in self._list(folder)[0]:
                    path = name if folder == b"." else folder + b"/" + name
                    if stat.S_ISDIR(entry.st_mode):
                        waiting.append(path)
                    elif self._previous.get(path) != _seen(entry):
                        wanted += entry.st_blocks * 512
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

    def first(self) -> None:
        """Copy what is there; what vanishes or changes meanwhile is left to `second`."""
        self._pass(settled=False)

    def second(self) -> None:
        """Make the copy equal to the source, which must stand still, and write down what the next copy can build on."""
        self._owners.clear()
        self._pass(settled=True)

    def write_index(self) -> None:
        """Write `index`, and `owners` where asked for; the copy is complete after this."""
        with open(os.path.join(self._target, INDEX), "wb") as file:
            file.writelines(b"%d %d %d %d %s\0" % (*seen, path) for path, seen in self._seen.items())
        if self._squash:
            with open(os.path.join(self._target, OWNERS), "wb") as file:
                file.write(b"".join(self._owners))

    def flush(self) -> None:
        """Have everything on disk, for a copy that somebody will rely on; OSError if that did not work."""
        flush(self._to)

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
                        raise
        for folder, status in reversed(later):
            self._note_owner(folder, status)
            self._dress_folder(folder, status, settled=settled)
        self._seen = fresh

    def _list(self, folder: bytes) -> tuple[list[tuple[bytes, os.stat_result]], os.stat_result]:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        self._folder = self._open_folder(folder)
        entries = []
        with os.scandir(self._folder) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):
                    entries.append((os.fsencode(entry.name), entry.stat(follow_symlinks=False)))
        return entries, os.fstat(self._folder)

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
        if linked and entry.st_ino in placed:
            self._clear(path)
            os.link(placed[entry.st_ino], path, src_dir_fd=self._to, dst_dir_fd=self._to, follow_symlinks=False)
            if placed[entry.st_ino] in fresh:
                fresh[path] = fresh[placed[entry.st_ino]]
            return
        seen, settled_before = _seen(entry), self._clock + time.monotonic_ns() - RACY
        known = self._seen.get(path) == seen or (self._previous.get(path) == seen and self._link_previous(path))
        if not known:
            self._clear(path)
            seen = self._copy(path, entry)
        if known or seen[1] < settled_before:
            fresh[path] = seen
        if linked:
            placed[entry.st_ino] = path

    def _link_previous(self, path: bytes) -> bool:
        self._clear(path)
        try:
            os.link(path, path, src_dir_fd=self._link_from, dst_dir_fd=self._to, follow_symlinks=False)
        except OSError:  # gone, or as many links as the file system has: then it is copied
            return False
        return True

    def _copy(self, path: bytes, entry: os.stat_result) -> Seen:
        """Copy one entry and return what it was when the copy began."""
        mode = entry.st_mode
        if stat.S_ISREG(mode):
            return self._copy_file(path)
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(_name(path), dir_fd=self._folder), path, dir_fd=self._to)
        else:  # a FIFO, or overlayfs' mark of deletion
            os.mknod(path, mode, entry.st_rdev, dir_fd=self._to)
            os.chmod(path, stat.S_IMODE(mode), dir_fd=self._to)
        os.utime(path, ns=(entry.st_atime_ns, entry.st_mtime_ns), dir_fd=self._to, follow_symlinks=False)
        return _seen(entry)

    def _copy_file(self, path: bytes) -> Seen:
        source = os.open(_name(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._folder)
        try:
            status = os.fstat(source)
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
        return _seen(status)

    def _copy_content(self, source: int, target: int, status: os.stat_result) -> None:
        size = status.st_size
        if size <= SMALL and not _has_holes(status):
            while data := os.read(source, SMALL):
                _write_all(target, data)
            return
        if self._clones:
            try:
                fcntl.ioctl(target, FICLONE, source)
            except OSError as error:
                if error.errno not in NOT_CLONABLE:
                    raise
                self._clones = False
            else:
                return
        for begin, end in _extents(source, size) if _has_holes(status) else [(0, size)]:
            _copy_range(source, target, begin, end)
        os.ftruncate(target, size)

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


def flush(fd: int) -> None:
    """Have all of a file system on disk (syncfs(2)); OSError with what it could not write."""
    if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def copy_attributes(source: int, target: int) -> None:
    """Make the user's extended attributes and the access lists of `target` those of `source`, both open files."""
    wanted = {name: os.getxattr(source, name) for name in os.listxattr(source) if _kept(name)}
    for name in os.listxattr(target):
        if _kept(name) and name not in wanted:
            os.removexattr(target, name)
    for name, value in wanted.items():
        try:
            os.setxattr(target, name, value)
        except OSError as error:
            if name.startswith("user.") or error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}:
                raise


def _kept(name: str) -> bool:
    if name.startswith("user.overlay.") and not name.startswith("user.overlay.overlay."):  # a session's own, escaped
        return name in KEPT_MARKS
    return name.startswith(("user.", "system.posix_acl_"))


def read_index(path: str) -> dict[bytes, Seen]:
    """What an index says, by path; nothing if there is none or it is no index."""
    try:
        with open(path, "rb") as file:
            records = file.read().split(b"\0")[:-1]
        found = {}
        for record in records:
            inode, changed, modified, size, name = record.split(b" ", 4)
            found[name] = (int(inode), int(changed), int(modified), int(size))
    except (OSError, ValueError):
        return {}
    return found


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


def main(arguments: list[str]) -> int:
    squash = arguments[:1] == ["--squash"]
    words = arguments[1:] if squash else arguments
    if not words or len(words) % 3:
        print("usage: copying.py [--squash] SOURCE TARGET PREVIOUS …", file=sys.stderr)
        return 2
    os.umask(0o077)
    try:
        copies = [Copy(*words[index : index + 3], squash=squash) for index in range(0, len(words), 3)]
        for copy in copies:
            copy.require_room()
        for copy in copies:
            copy.first()
        print("copied", flush=True)
        if not sys.stdin.readline():
            return 3  # nobody wants it any more
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
