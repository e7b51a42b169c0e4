"""Checksums of the entries of a tree: kind, mode, time of modification and content."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING

from broker.volumes import progress
from broker.volumes.content import has_holes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.walk import Folder

SPARSE_PREFIX = b"sparse:"
"""Begins the checksum of a file of which only blocks with data are read."""
BLOCK_BYTES = 1 << 16
"""Such a block. Part of what the checksum means: it must not change."""
READ_BYTES = 1 << 20
MAX_NAME_BYTES = 4096
"""Bytes of a path that a record has as it is, PATH_MAX in limits.h; of a longer one it has a checksum."""
LONG_NAME_PREFIX = b"/sha256:"
"""Begins that name: no path of a layer begins with a slash."""
_ZEROS = bytes(BLOCK_BYTES)


def record_name(path: bytes) -> bytes:
    """Return a path, or its checksum if it is longer than a record may be."""
    return path if len(path) <= MAX_NAME_BYTES else LONG_NAME_PREFIX + hashlib.sha256(path).hexdigest().encode()


def checksum(folder: Folder, name: bytes, status: os.stat_result, *, is_sparse: bool | None = None) -> bytes:
    """Return the checksum of an entry of a folder. OSError.

    That of a file with holes is over the blocks of BLOCK_BYTES that are not all zeros, so it takes no time for holes
    and is the same wherever they are. `is_sparse` chooses the one or the other form, to compare with an earlier one.
    """
    digest = hashlib.sha256(f"{status.st_mode:o} {status.st_rdev} ".encode())
    prefix = b""
    if stat.S_ISLNK(status.st_mode):
        digest.update(os.readlink(name, dir_fd=folder.descriptor()))
    elif stat.S_ISREG(status.st_mode):
        digest.update(str(status.st_mtime_ns).encode())
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder.descriptor())
        try:
            if has_holes(status) if is_sparse is None else is_sparse:
                prefix = SPARSE_PREFIX
                digest.update(b" %d" % status.st_size)
                for offset, block in _blocks_with_data(descriptor, status.st_size):
                    progress.count(size=len(block))
                    digest.update(b" %d " % offset)
                    digest.update(block)
            else:
                while piece := os.read(descriptor, READ_BYTES):
                    progress.count(size=len(piece))
                    digest.update(piece)
        finally:
            os.close(descriptor)
    return prefix + digest.hexdigest().encode()


def _blocks_with_data(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the blocks of a file that are not all zeros, by their offsets."""
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(descriptor, offset, os.SEEK_DATA)
            end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            begin, end = offset, size  # a file system that does not tell
        for offset in range(begin - begin % BLOCK_BYTES, min(end, size), BLOCK_BYTES):
            block = os.pread(descriptor, BLOCK_BYTES, offset)
            if block != _ZEROS[: len(block)]:
                yield offset, block
        offset += BLOCK_BYTES
