"""The files of an image in a folder or in a tar archive, read by name without unpacking."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, Protocol

from profiles.errors import LayerInvalidError, OciImageError
from profiles.oci.entry_path import entry_path, show_entry
from profiles.oci.openat2 import open_beneath
from profiles.oci.tar_reader import EntryType, read_entries
from profiles.oci.unpack_stream import MAGIC_BYTES, Compression, detect_compression
from profiles.userfile import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

PIECE_BYTES = 1 << 20
MAX_MEMBERS = 10_000
"""Members of an archive: three for each layer, and a few documents."""
MAX_LINKS = 8
"""Links from one member of an archive to the next: `docker save` makes one for a layer that two images share."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]{0,500}")


class BlobFiles(Protocol):
    """Files by their names, such as `index.json` and `blobs/sha256/…`."""

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file piece by piece. Raises OciImageError if there is none."""

    def size(self, name: str) -> int:
        """Return the bytes of a file. Raises OciImageError if there is none."""


class FolderFiles:
    """The files of a folder. Links are not followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pieces(self, name: str) -> Iterator[bytes]:
        with self._open(name) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def size(self, name: str) -> int:
        with self._open(name) as file:
            return os.fstat(file.fileno()).st_size

    def _open(self, name: str) -> FileIO:
        try:
            root = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                descriptor = open_beneath(root, os.fsencode(checked_name(name)), os.O_RDONLY | os.O_NONBLOCK)
            finally:
                os.close(root)
        except OSError as error:
            raise _missing_file(self._folder, name, str(error.strerror)) from error
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            return open_regular(f"/proc/self/fd/{descriptor}", own=False, follow=True)


class ArchiveFiles:
    """The files of a tar archive, which is read once to find them. Raises OciImageError, OSError."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._members: dict[bytes, tuple[int, int]] = {}
        self._links: dict[bytes, bytes] = {}
        with open_regular(archive, own=False, follow=True) as file:
            self._refuse_compression(file)
            stream = _FileStream(file)
            try:
                for entry in read_entries(stream):
                    self._note(entry_path(entry.name), entry.kind, stream.position, entry.size, entry.link)
            except LayerInvalidError as error:
                place = f", entry {show_entry(error.entry)}" if error.entry else ""
                raise OciImageError(f"the archive {archive}{place}: {error.message}") from error

    def pieces(self, name: str) -> Iterator[bytes]:
        at, remaining = self._find(name)
        with open_regular(self._archive, own=False, follow=True) as file:
            file.seek(at)
            while remaining and (piece := file.read(min(PIECE_BYTES, remaining))):
                remaining -= len(piece)
                yield piece

    def size(self, name: str) -> int:
        return self._find(name)[1]

    def _note(self, name: bytes, kind: EntryType, at: int, size: int, link: bytes) -> None:
        if len(self._members) + len(self._links) >= MAX_MEMBERS:
            raise LayerInvalidError(f"the archive has more than {MAX_MEMBERS} members")
        if name in self._members or name in self._links:
            raise LayerInvalidError("the archive has it twice", entry=name)
        if kind is EntryType.FILE:
            self._members[name] = (at, size)
        elif kind in {EntryType.SYMLINK, EntryType.HARD_LINK}:
            folder = name.rpartition(b"/")[0] if kind is EntryType.SYMLINK else b""
            target = os.path.normpath(os.path.join(folder, link))  # noqa: PTH118 - bytes
            self._links[name] = target

    def _find(self, name: str) -> tuple[int, int]:
        key = os.fsencode(checked_name(name))
        for _ in range(MAX_LINKS):
            if key not in self._links:
                break
            key = self._links[key]
        found = self._members.get(key)
        if found is None:
            raise _missing_file(self._archive, name, "there is none")
        return found

    def _refuse_compression(self, file: FileIO) -> None:
        found = detect_compression(file.read(MAGIC_BYTES))
        file.seek(0)
        if found is not Compression.NONE:
            raise OciImageError(
                f"the archive {self._archive} is compressed as a whole",
                hint=f"decompress it first: {found} -d {self._archive}",
            )


class _FileStream:
    """A file as a ByteStream that jumps over what it skips."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self.position = 0

    def read_exactly(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count and (piece := self._file.read(count - len(found))):
            found += piece
        self.position += len(found)
        return bytes(found)

    def skip(self, count: int) -> None:
        self.position = min(self.position + count, self._size)
        self._file.seek(self.position)


def read_member(files: BlobFiles, name: str, limit: int) -> bytes:
    """Return all of a file of at most `limit` bytes. Raises OciImageError."""
    if files.size(name) > limit:
        raise OciImageError(f"{name} of the image is larger than {limit >> 10} KiB, the most that Berth reads of it")
    return b"".join(files.pieces(name))[: limit + 1]


def copy_verified(pieces: Iterator[bytes], size: int, digest: str, into: Path) -> None:
    """Write content to the new file `into` if it has this size and digest. Raises OciImageError, and leaves no file."""
    counted, found = 0, hashlib.sha256()
    try:
        with into.open("xb") as file:
            for piece in pieces:
                counted += len(piece)
                if counted > size:
                    break
                found.update(piece)
                file.write(piece)
        if counted != size or f"sha256:{found.hexdigest()}" != digest:
            raise OciImageError(
                f"the blob {digest[:19]} of the image is damaged: its content is another one",
                hint="copy the image again",
            )
    except BaseException:
        into.unlink(missing_ok=True)
        raise


def checked_name(name: str) -> str:
    """Return the name of a file that a document of the image gave. Raises OciImageError if it could lead elsewhere."""
    if not _SAFE_NAME.fullmatch(name) or {"..", ".", ""} & set(name.split("/")):
        raise OciImageError(f"a document of the image names the file {name[:100]!r}, which is no plain path")
    return name


def _missing_file(place: Path, name: str, why: str) -> OciImageError:
    return OciImageError(
        f"{place} has no readable file {name[:100]}: {why}",
        hint="is it an image of the kind that the recipe says, and complete?",
    )
