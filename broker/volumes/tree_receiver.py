"""Make the entries of one volume that another user's process sends, below a new folder.

No path of the stream is ever resolved: each entry is made by its one name in a folder that is open, and no link is
followed. Entries get permissions and `user.*` attributes only, and belong to the user of this process. The standard
library alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.volumes import progress
from broker.volumes.entry_copy import CREATE_FLAGS
from broker.volumes.errors import VolumeError
from broker.volumes.flatten import OPAQUE_XATTR, white_out
from broker.volumes.snapshot_stream import (
    ATTRIBUTE,
    ATTRIBUTE_HEAD,
    DATA,
    DATA_HEAD,
    DELETED,
    FILE,
    FILE_HEAD,
    FOLDER,
    FOLDER_HEAD,
    LEAVE,
    LINK,
    LINK_HEAD,
    MAX_PIECE_BYTES,
    MAX_TARGET_BYTES,
    MAX_VALUE_BYTES,
    SYMLINK,
    SYMLINK_HEAD,
    MalformedStreamError,
    check_attribute,
    check_entry_name,
    check_mode,
    unpack_head,
)
from profiles.image.overlayfs import Marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from profiles.walk import Folder, Tree

MAX_ENTRIES = 20_000_000
"""Entries of a snapshot that are received."""
MAX_DEPTH = 4096
"""Folders within each other that are received."""
ENTRY_BYTES = 512
"""Bytes that each entry counts beside its content."""


class SpaceAllowance:
    """The bytes and entries that may still arrive."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self.bytes = 0
        self.entries = 0

    def entry(self) -> None:
        """Count an entry. VolumeError `space`."""
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise VolumeError("space", f"the snapshot has more than {MAX_ENTRIES} entries")
        self.content(ENTRY_BYTES)

    def content(self, size: int) -> None:
        """Count bytes. VolumeError `space`."""
        self.bytes += size
        self.check(self.bytes)

    def check(self, size: int) -> None:
        """Require that `size` bytes in all are allowed. VolumeError `space`."""
        if size > self._most:
            raise VolumeError(
                "space", f"the snapshot takes more than the {self._most >> 20} MiB that you may still use"
            )


@dataclass(slots=True)
class _OpenFile:
    """The file whose attributes and content arrive."""

    descriptor: int
    mode: int
    modified: int
    size: int
    end: int = 0
    """The end of the last piece."""


class TreeReceiver:
    """Makes the entries of one volume below a tree."""

    def __init__(self, tree: Tree, allowance: SpaceAllowance, *, is_system: bool) -> None:
        self._allowance = allowance
        self._is_system = is_system
        self._folders = [tree.root]
        """The folders that the stream is in, the innermost last."""
        self._finished: list[tuple[Folder, int, int, bool]] = []
        """Each folder with its mode, time, and whether it is opaque: these are set at the end, innermost first."""
        self._linked: list[tuple[Folder, bytes]] = []
        """The names of files to which the stream may link."""
        self._file: _OpenFile | None = None
        self._may_have_attributes = False
        self.marks = Marks.KERNEL
        """How deletions are marked: as the kernel does, or as fuse-overlayfs if the file system makes no devices."""
        self._handlers: dict[bytes, Callable[[bytes], None]] = {
            FOLDER: self._folder,
            LEAVE: self._leave,
            FILE: self._new_file,
            ATTRIBUTE: self._attribute,
            DATA: self._data,
            SYMLINK: self._symlink,
            LINK: self._link,
            DELETED: self._deletion,
        }

    def take(self, kind: bytes, content: bytes) -> None:
        """Make what a record says. MalformedStreamError, VolumeError `space`, OSError."""
        handler = self._handlers.get(kind)
        if handler is None:
            raise MalformedStreamError("it is not about an entry")
        if kind not in {DATA, ATTRIBUTE}:
            self._close_file()
            self._may_have_attributes = False
        handler(content)

    def finish(self) -> None:
        """Complete the volume. MalformedStreamError if a folder is not."""
        self._close_file()
        if len(self._folders) != 1:
            raise MalformedStreamError("a folder has no end")
        for folder, mode, modified, is_opaque in reversed(self._finished):
            descriptor = folder.descriptor()
            if is_opaque:
                os.setxattr(descriptor, OPAQUE_XATTR, b"y")
            os.fchmod(descriptor, mode)
            os.utime(descriptor, ns=(modified, modified))

    def abandon(self) -> None:
        """Close what is open."""
        if self._file is not None:
            os.close(self._file.descriptor)
            self._file = None

    def _folder(self, content: bytes) -> None:
        (mode, modified, is_opaque), name = unpack_head(FOLDER_HEAD, content)
        self._begin_entry(name)
        if is_opaque and not self._is_system:
            raise MalformedStreamError("a folder of the home hides nothing")
        if len(self._folders) > MAX_DEPTH:
            raise VolumeError("space", f"the snapshot has more than {MAX_DEPTH} folders within each other")
        os.mkdir(name, 0o700, dir_fd=self._here)
        self._folders.append(self._folders[-1].folder(name))
        self._finished.append((self._folders[-1], check_mode(mode), _check_time(modified), bool(is_opaque)))
        self._may_have_attributes = True

    def _leave(self, content: bytes) -> None:
        if content or len(self._folders) == 1:
            raise MalformedStreamError("no folder ends here")
        self._folders.pop()

    def _new_file(self, content: bytes) -> None:
        (mode, modified, size, is_linked), name = unpack_head(FILE_HEAD, content)
        self._begin_entry(name)
        if size >= 2**63 or check_mode(mode) != mode:
            raise MalformedStreamError("a file is too large")
        _check_time(modified)
        descriptor = os.open(name, CREATE_FLAGS, 0o600, dir_fd=self._here)
        self._file = _OpenFile(descriptor, mode, modified, size)
        if is_linked:
            self._linked.append((self._folders[-1], name))
        self._may_have_attributes = True

    def _attribute(self, content: bytes) -> None:
        (length,), rest = unpack_head(ATTRIBUTE_HEAD, content)
        name, value = check_attribute(rest[:length]), rest[length:]
        if not self._may_have_attributes or len(rest) < length or len(value) > MAX_VALUE_BYTES:
            raise MalformedStreamError("an attribute belongs to nothing")
        self._allowance.content(len(content))
        with _without_attributes():
            os.setxattr(self._here if self._file is None else self._file.descriptor, name, value, os.XATTR_CREATE)

    def _data(self, content: bytes) -> None:
        (offset,), piece = unpack_head(DATA_HEAD, content)
        file = self._file
        if file is None or not 0 < len(piece) <= MAX_PIECE_BYTES:
            raise MalformedStreamError("a piece belongs to no file")
        if not file.end <= offset <= file.size - len(piece):
            raise MalformedStreamError("a piece is outside its file")
        self._may_have_attributes = False
        self._allowance.content(len(piece))
        view, at = memoryview(piece), offset
        while view:
            written = os.pwrite(file.descriptor, view, at)
            view, at = view[written:], at + written
        file.end = offset + len(piece)
        progress.count(size=len(piece))

    def _symlink(self, content: bytes) -> None:
        (modified, length), rest = unpack_head(SYMLINK_HEAD, content)
        name, target = rest[:length], rest[length:]
        self._begin_entry(name)
        if not 0 < len(target) <= MAX_TARGET_BYTES or b"\0" in target:
            raise MalformedStreamError("a link has no valid target")
        self._allowance.content(len(target))
        os.symlink(target, name, dir_fd=self._here)
        times = (_check_time(modified),) * 2
        os.utime(name, ns=times, dir_fd=self._here, follow_symlinks=False)

    def _link(self, content: bytes) -> None:
        (number,), name = unpack_head(LINK_HEAD, content)
        self._begin_entry(name)
        if number >= len(self._linked):
            raise MalformedStreamError("a link is to a file that has not come")
        folder, former = self._linked[number]
        source = os.dup(folder.descriptor())  # the tree may close its own when it opens another folder
        try:
            os.link(former, name, src_dir_fd=source, dst_dir_fd=self._here, follow_symlinks=False)
        finally:
            os.close(source)

    def _deletion(self, name: bytes) -> None:
        self._begin_entry(name)
        if not self._is_system:
            raise MalformedStreamError("a home has no deletions")
        try:
            white_out(self._folders[-1], name, self.marks)
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            self.marks = Marks.FUSE
            white_out(self._folders[-1], name, self.marks)

    def _begin_entry(self, name: bytes) -> None:
        check_entry_name(name)
        self._allowance.entry()
        progress.count(files=1)

    @property
    def _here(self) -> int:
        return self._folders[-1].descriptor()

    def _close_file(self) -> None:
        """Complete the file that has arrived."""
        file = self._file
        if file is None:
            return
        self._file = None
        try:
            if file.end != file.size:  # it ends with a hole
                os.ftruncate(file.descriptor, file.size)
            os.fchmod(file.descriptor, file.mode)
            os.utime(file.descriptor, ns=(file.modified, file.modified))
        finally:
            os.close(file.descriptor)


def _check_time(nanoseconds: int) -> int:
    """Return a time of modification that file systems can store; another one becomes 0."""
    return nanoseconds if 0 <= nanoseconds < 2**32 * 10**9 else 0


@contextlib.contextmanager
def _without_attributes() -> Iterator[None]:
    """Leave an attribute out on a file system that has none. MalformedStreamError for a second one of a name."""
    try:
        yield
    except FileExistsError:
        raise MalformedStreamError("an attribute comes twice") from None
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
