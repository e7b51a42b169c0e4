"""A bounded reader of files that a user controls.

The owner of such a file can replace it at any moment: by a link to an endless device, a sparse file of terabytes, or a
named pipe without a writer. So a file is opened without following a link and without waiting, and only a regular file
is read. The reader counts bytes while it reads, because the size from stat(2) may be wrong by then. Everything here
raises UnfitFileError, an OSError, for a file that must not be read, and OSError for one that cannot.

The standard library alone: the launcher's children import this.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

PIECE_BYTES = 1 << 16
"""Bytes of one read(2) of a stream: large enough to be fast, small enough to hold for every request at once."""


class UnfitFileError(OSError):
    """Berth does not read this file because of its kind or size; `strerror` has the reason, `filename` its path."""

    def __init__(self, path: str | os.PathLike[str], why: str) -> None:
        super().__init__(errno.EINVAL, why, os.fspath(path))


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file, or a link to one, exists. False also for a path that this process may not search, for
    which pathlib raises before Python 3.14.
    """
    return os.path.isfile(path)  # noqa: PTH113 - as said above


def open_regular(
    path: str | os.PathLike[str], limit: int | None = None, *, own: bool = True, follow: bool = False
) -> FileIO:
    """Open a regular file of at most `limit` bytes for reading, unbuffered.

    With `own` the file must belong to the user that this process runs as. With `follow` the path may be a symbolic
    link; the file at its end must be as fit.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnfitFileError(path, "is a symbolic link, and must be a regular file") from error
        if error.errno == errno.ENXIO:
            raise UnfitFileError(path, "is a socket, and must be a regular file") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnfitFileError(path, f"is {_kind(status.st_mode)}, and must be a regular file")
        if own and status.st_uid != os.geteuid():
            raise UnfitFileError(path, "belongs to another user")
        if limit is not None and status.st_size > limit:
            raise too_large(path, limit)
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | os.PathLike[str], limit: int, *, own: bool = True, follow: bool = False) -> bytes:
    """Return all of a regular file of at most `limit` bytes."""
    with open_regular(path, limit, own=own, follow=follow) as file:
        content = bytearray()
        while piece := file.read(min(PIECE_BYTES, limit + 1 - len(content))):
            content += piece
            if len(content) > limit:  # it has grown since
                raise too_large(path, limit)
        return bytes(content)


def read_text(
    path: str | os.PathLike[str], limit: int, *, own: bool = True, follow: bool = False, errors: str = "replace"
) -> str:
    """Return all of a regular file of at most `limit` bytes as UTF-8 text; `errors` as for bytes.decode."""
    return read_bytes(path, limit, own=own, follow=follow).decode(errors=errors)


def read_tail(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the last `most` bytes of the user's own regular file of any size."""
    with open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        content = bytearray()
        while len(content) < most and (piece := file.read(min(PIECE_BYTES, most - len(content)))):
            content += piece
        return bytes(content)


def read_pieces(path: str | os.PathLike[str], limit: int, *, own: bool = True) -> Iterator[bytes]:
    """Yield a regular file of at most `limit` bytes piece by piece."""
    total = 0
    with open_regular(path, limit, own=own) as file:
        while piece := file.read(PIECE_BYTES):
            total += len(piece)
            if total > limit:
                raise too_large(path, limit)
            yield piece


def read_records(path: str | os.PathLike[str], limit: int, *, longest: int, own: bool = True) -> Iterator[bytes]:
    """Yield the records of a regular file of at most `limit` bytes, without the NUL that ends each.

    A record has from 1 to `longest` bytes. Bytes after the last NUL are left out: their writer was interrupted.
    """
    rest = b""
    for piece in read_pieces(path, limit, own=own):
        *whole, rest = (rest + piece).split(b"\0")
        for record in whole:
            if not 0 < len(record) <= longest:
                raise UnfitFileError(path, "is damaged: it has a record of the wrong length")
            yield record
        if len(rest) > longest:
            raise UnfitFileError(path, "is damaged: it has a record of the wrong length")


def too_large(path: str | os.PathLike[str], limit: int) -> UnfitFileError:
    """Return the refusal of a file above `limit` bytes."""
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return UnfitFileError(path, f"is larger than {size}, the most that Berth reads of it")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
