"""Read, compare, share and copy the content and attributes of single files.

The standard library alone: the copy of a running session runs this in its job (docs/reference/session-job.md).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct

from broker.volumes import progress

LIBC = ctypes.CDLL(None, use_errno=True)
FICLONE = 0x40049409  # ioctl_ficlone(2)
WRITE_AND_WAIT = 7
"""Flags of sync_file_range(2): wait before, write, wait after."""
SMALL_BYTES = 1 << 16
"""Size up to which a file is read and written at once."""
CHUNK_BYTES = 1 << 24
"""Bytes of one copy_file_range(2)."""
COMPARE_BYTES = 1 << 20
"""Bytes that are compared at once: a piece that fits into a processor's cache together with its copy."""
KEPT_MARKS = frozenset({"user.overlay.opaque", "user.overlay.whiteout", "user.overlay.whiteouts"})
"""Of overlayfs' attributes only these are content; the others are about inodes that a copy does not have."""
NOT_CLONABLE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM})

ACCESS_LISTS = ("system.posix_acl_access", "system.posix_acl_default")
NAMED_TAGS = (0x02, 0x08)
"""ACL_USER and ACL_GROUP: the entries of an access list that name a user or a group."""
UNKNOWN_ID = 2**32 - 1

FileState = tuple[int, int, int, int]
"""Inode, time of change and of modification in nanoseconds, size. While these stay the same, so does the file."""


def file_state(status: os.stat_result) -> FileState:
    return (status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)


def sync_file_system(fd: int) -> None:
    """Write a whole file system to disk (syncfs(2)). OSError if that fails."""
    if LIBC.syncfs(fd) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def duplicate_file(source: str, target: str) -> None:
    """Make a file, or a symbolic link, that equals another one in everything but its inode. OSError."""
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
            if not share_blocks(read, written):
                copy_extents(read, written, status)
            copy_attributes(read, written)
            os.fchmod(written, stat.S_IMODE(status.st_mode))
            os.utime(written, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(written)
    finally:
        os.close(read)


def share_blocks(source: int, target: int) -> bool:
    """Let a new file share the blocks of another. False if the file system cannot."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno not in NOT_CLONABLE:
            raise
        return False
    return True


def copy_extents(source: int, target: int, status: os.stat_result) -> None:
    """Copy the data of an open file to a new one, and leave its holes out. OSError."""
    size = status.st_size
    for begin, end in data_extents(source, size) if has_holes(status) else [(0, size)]:
        _copy_range(source, target, begin, end)
    if os.fstat(target).st_size != size:  # it ends with a hole, or another process has changed its length
        os.ftruncate(target, size)


def write_dirty_pages(fd: int) -> bool:
    """Write a file's dirty pages to disk and wait: the next store into each of them faults. False if it failed."""
    begin, length = ctypes.c_int64(0), ctypes.c_int64(0)  # to its end
    return bool(LIBC.sync_file_range(fd, begin, length, ctypes.c_uint(WRITE_AND_WAIT)) == 0)


def read_attributes(fd: int) -> dict[str, bytes]:
    """Return the extended attributes and access lists of an open file that a copy keeps."""
    return {name: os.getxattr(fd, name) for name in attribute_names(fd) if is_copied_attribute(name)}


def attribute_names(entry: int | bytes) -> list[str]:
    """List the extended attributes of an open file or of a path; none if the file system has none."""
    follow = isinstance(entry, int)  # a descriptor; the system call that takes one wants this to be so
    try:
        return os.listxattr(entry, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []


def copy_attributes(source: int, target: int) -> None:
    """Make the user's extended attributes and the access lists of `target` those of `source`, both open files."""
    wanted = read_attributes(source)
    for name in attribute_names(target):
        if is_copied_attribute(name) and name not in wanted:
            os.removexattr(target, name)
    for name, value in wanted.items():
        set_attribute(target, name, value)


def set_attribute(target: int | bytes, name: str, value: bytes) -> None:
    """Set an extended attribute of an open file, or of a path whose last name may be a link. OSError.

    An access list is left out where the file system has none. In a user namespace it loses its entries for other
    users and groups: the kernel shows no numbers for those, and takes none.
    """
    follow = isinstance(target, int)  # a descriptor; the system call that takes one wants this to be so
    try:
        try:
            os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as error:
            if name.startswith("user.") or error.errno != errno.EINVAL:
                raise
            os.setxattr(target, name, drop_unknown_ids(value), follow_symlinks=follow)
    except OSError as error:
        if name.startswith("user.") or error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}:
            raise


def drop_unknown_ids(access_list: bytes) -> bytes:
    """Return an access list without entries for users and groups that have no number here (posix_acl_xattr.h of Linux).

    The entries for the file's own group and for all others stay: by its mode alone, the group might have more rights.
    """
    head, entries = access_list[:4], list(struct.iter_unpack("<HHI", access_list[4:]))
    kept = [entry for entry in entries if entry[0] not in NAMED_TAGS or entry[2] != UNKNOWN_ID]
    return head + b"".join(struct.pack("<HHI", *entry) for entry in kept)


def copy_folder_attributes(source: int, target: int) -> None:
    """Give the open folder `target` the attributes, mode and times of `source`, without marks that hide others."""
    copy_attributes(source, target)
    for mark in KEPT_MARKS.intersection(attribute_names(target)):
        os.removexattr(target, mark)
    status = os.fstat(source)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def is_copied_attribute(name: str) -> bool:
    """Whether a copy keeps an extended attribute of this name."""
    if name.startswith("user.overlay.") and not name.startswith("user.overlay.overlay."):  # a session's own, escaped
        return name in KEPT_MARKS
    return name.startswith(("user.", "system.posix_acl_"))


def has_holes(status: os.stat_result) -> bool:
    """Whether a file occupies fewer bytes on disk than its size."""
    return status.st_blocks * 512 < status.st_size


def data_extents(fd: int, size: int) -> list[tuple[int, int]]:
    """Return where the data of a file lies, as pairs of begin and end (lseek(2), SEEK_DATA)."""
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


def same_content(source: int, target: int, theirs: os.stat_result, ours: os.stat_result) -> bool:
    """Whether two open files of one size have the same bytes; what is a hole in both is not read."""
    size = theirs.st_size
    ranges = [(0, size)]
    if has_holes(theirs) or has_holes(ours):  # a hole may be as long as a file system
        ranges = sorted({*data_extents(source, size), *data_extents(target, size)})
    for begin, end in ranges:
        for at in range(begin, end, COMPARE_BYTES):
            length = min(COMPARE_BYTES, end - at)
            if os.pread(source, length, at) != os.pread(target, length, at):
                return False
            progress.count(size=length)
    return True


def _copy_range(source: int, target: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            copied = os.copy_file_range(source, target, min(CHUNK_BYTES, end - begin), begin, begin)
        except OSError as error:
            if error.errno not in NOT_CLONABLE:
                raise
            data = os.pread(source, min(CHUNK_BYTES, end - begin), begin)
            copied = len(data)
            os.lseek(target, begin, os.SEEK_SET)
            write_all(target, data)
        if copied == 0:  # it was cut short meanwhile
            return
        begin += copied
        progress.count(size=copied)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
