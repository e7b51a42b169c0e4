"""Bounded reading of an image's tree, which a stranger may have made. No link in it is followed."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

from profiles.inventory.model import InventoryError, name_text
from profiles.walk import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from profiles.walk import Folder

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE_BYTES = 1 << 20


class ImageTreeReader:
    """Reads files of an image by their relative paths. A context manager."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.tree = Tree(root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tree.close()

    def folder(self, path: str) -> Folder:
        """Return the folder at a relative path; nothing is opened yet."""
        folder = self.tree.root
        for name in filter(None, path.split("/")):
            folder = folder.folder(os.fsencode(name))
        return folder

    def status(self, path: str) -> os.stat_result | None:
        """Return the result of lstat(2); None if there is nothing, or a link or a file is on the way to it."""
        above, _, name = path.rpartition("/")
        try:
            return self.folder(above).status(os.fsencode(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InventoryError(f"/{path} of the image cannot be read: {error.strerror}") from error

    def names(self, path: str) -> list[bytes]:
        """List a folder, sorted; empty if there is none."""
        try:
            return sorted(os.fsencode(entry.name) for entry in self.folder(path).entries())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise InventoryError(f"/{path} of the image cannot be read: {error.strerror}") from error

    def read(self, path: str, limit: int) -> bytes | None:
        """Return a regular file of at most `limit` bytes; None if there is none. InventoryError if it is larger."""
        above, _, name = path.rpartition("/")
        if self.status(path) is None:
            return None
        return read_in(self.folder(above), os.fsencode(name), limit)

    def text(self, path: str, limit: int) -> str | None:
        """As `read`, as text. InventoryError for a file that is no UTF-8."""
        content = self.read(path, limit)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError as error:
            raise InventoryError(f"/{path} of the image is damaged: it is no UTF-8 text") from error


def read_in(folder: Folder, name: bytes, limit: int) -> bytes | None:
    """Return the regular file `name` of a folder; None if it is of another kind. InventoryError above `limit` bytes."""
    content = bytearray()
    for piece in pieces_in(folder, name):
        content += piece
        if len(content) > limit:
            raise InventoryError(
                f"/{name_text(folder.below(name))} of the image is larger than {limit >> 10} KiB, the most that is read"
            )
    return bytes(content) if content or _is_regular(folder, name) else None


def start_of(folder: Folder, name: bytes, size: int) -> bytes:
    """Return the first `size` bytes of a regular file; none for another kind of file."""
    content = b""
    for piece in pieces_in(folder, name, size):
        content += piece
        if len(content) >= size:
            break
    return content[:size]


def digest_in(folder: Folder, name: bytes) -> str:
    """Return the SHA-256 of a regular file, hexadecimal."""
    digest = hashlib.sha256()
    for piece in pieces_in(folder, name):
        digest.update(piece)
    return digest.hexdigest()


def pieces_in(folder: Folder, name: bytes, size: int = _PIECE_BYTES) -> Iterator[bytes]:
    """Yield a regular file piece by piece; nothing for another kind of file. InventoryError if it cannot be read."""
    try:
        if not _is_regular(folder, name):
            return
        descriptor = os.open(name, _FLAGS, dir_fd=folder.descriptor())
        try:
            while piece := os.read(descriptor, size):
                yield piece
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InventoryError(
            f"/{name_text(folder.below(name))} of the image cannot be read: {error.strerror}"
        ) from error


def _is_regular(folder: Folder, name: bytes) -> bool:
    status = folder.status(name)
    return status is not None and stat.S_ISREG(status.st_mode)
