"""Write the entries of layers into the tree of an image, as root of that tree.

Every path is opened by openat2(2) beneath the tree, and no link is followed: an entry whose folder is a symbolic link
is refused. So nothing outside the tree is read or changed, whatever a layer says.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

from profiles.errors import LayerInvalidError
from profiles.oci.entry_path import OPAQUE_NAME, WHITEOUT_BYTES, entry_path, hidden_name, link_target
from profiles.oci.openat2 import open_beneath
from profiles.oci.tar_reader import EntryType, TarEntry

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from profiles.oci.unpack_findings import UnpackFindings
    from profiles.oci.unpack_stream import LayerStream
    from profiles.oci.user_ids import IdMap

MAX_OPEN_FOLDERS = 128
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OUTSIDE = {errno.ELOOP, errno.EXDEV, errno.ENOTDIR}
_REMEDY = "build the image again so that the entry names the folder that the link leads to"


class TreeWriter:
    """Writes into the folder `root`, which exists. A context manager: it closes what it has opened.

    Call `begin_layer` before the entries of each layer, lowest first, and `finish` after the last. Raises
    LayerInvalidError for what a layer may not have, and OSError.
    """

    def __init__(self, root: Path, users: IdMap, groups: IdMap, findings: UnpackFindings) -> None:
        self._root = os.open(root, _FOLDER | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._users, self._groups = users, groups
        self._findings = findings
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._times: dict[bytes, int] = {b"": 0}
        """The time of change of every folder, which is set last: writing into a folder changes it."""
        self._written: set[bytes] = set()
        """The paths that the present layer has: its whiteouts do not delete them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for descriptor in (self._root, *self._open.values()):
            os.close(descriptor)

    def begin_layer(self) -> None:
        """Begin with the next layer."""
        self._written.clear()

    def add(self, entry: TarEntry, stream: LayerStream) -> None:
        """Apply one entry of the present layer. The content of a file comes from `stream`."""
        path = entry_path(entry.name)
        parent, _, name = path.rpartition(b"/")
        if name.startswith(WHITEOUT_BYTES):
            self._whiteout(entry, parent, name, path)
            return
        match entry.kind:
            case EntryType.DEVICE:
                raise LayerInvalidError(
                    "it is a device node, which no image may have", entry=path, hint="build the image again without it"
                )
            case EntryType.DIRECTORY:
                self._folder(entry, path)
            case _ if not path:
                raise LayerInvalidError("the root of the image is no folder", entry=entry.name)
            case EntryType.FILE:
                self._file(entry, path, stream)
            case EntryType.SYMLINK:
                folder = self._make_room(path, entry.mtime_ns)
                os.symlink(link_target(entry.link, path), name, dir_fd=folder)
                self._adopt(entry, path, name, folder)
            case EntryType.HARD_LINK:
                self._hard_link(entry, path)
            case EntryType.FIFO:
                folder = self._make_room(path, entry.mtime_ns)
                os.mkfifo(name, 0o600, dir_fd=folder)
                self._adopt(entry, path, name, folder)
                os.chmod(name, entry.mode, dir_fd=folder)
        self._note_written(path)
        self._findings.note_attributes(entry, path)

    def finish(self) -> None:
        """Give every folder its time of change."""
        for path, time_ns in self._times.items():
            try:
                os.utime(self._open_folder(path), ns=(time_ns, time_ns))
            except OSError as error:
                if error.errno not in {errno.ENOENT, *_OUTSIDE}:  # deleted or replaced by a later layer
                    raise

    def _folder(self, entry: TarEntry, path: bytes) -> None:
        parent, _, name = path.rpartition(b"/")
        if path:
            folder = self._parent(parent, entry.mtime_ns)
            if not _is_folder(folder, name):
                self._remove(folder, name, path)
                os.mkdir(name, 0o700, dir_fd=folder)
        descriptor = self._open_folder(path)
        os.fchown(descriptor, *self._owner(entry, path))
        os.fchmod(descriptor, entry.mode)
        self._times[path] = entry.mtime_ns

    def _file(self, entry: TarEntry, path: bytes, stream: LayerStream) -> None:
        parent, _, name = path.rpartition(b"/")
        folder = self._parent(parent, entry.mtime_ns)
        try:
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        except FileExistsError:
            self._remove(folder, name, path)
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            remaining = entry.size
            while remaining and (piece := stream.read_some(remaining)):
                remaining -= len(piece)
                while piece:
                    piece = piece[os.write(descriptor, piece) :]
            os.fchown(descriptor, *self._owner(entry, path))
            os.fchmod(descriptor, entry.mode)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _hard_link(self, entry: TarEntry, path: bytes) -> None:
        target = entry_path(entry.link)
        if target == path:
            raise LayerInvalidError("it is a hard link to itself", entry=path)
        above, _, old = target.rpartition(b"/")
        folder = self._make_room(path, entry.mtime_ns)
        try:
            source = self._open_folder(above)
            status = os.stat(old or b".", dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise LayerInvalidError("it is a hard link to a folder", entry=path)
            name = path.rpartition(b"/")[2]
            os.link(old, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in {errno.ENOENT, *_OUTSIDE}:
                raise
            raise LayerInvalidError("it is a hard link to a file that the image does not have", entry=path) from error

    def _whiteout(self, entry: TarEntry, parent: bytes, name: bytes, path: bytes) -> None:
        """Delete what the layers below have. A path that no layer has is deleted already."""
        if entry.kind is not EntryType.FILE or entry.size:
            raise LayerInvalidError("it is a whiteout, and no empty file", entry=path)
        hidden = b"" if name == OPAQUE_NAME else hidden_name(name, path)
        try:
            folder = self._open_folder(parent)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise _led_away(error, path) from error
        if hidden:
            self._remove_lower(folder, hidden, b"/".join((parent, hidden)) if parent else hidden)
            return
        for inner in _names(folder):
            self._remove_lower(folder, inner, b"/".join((parent, inner)) if parent else inner)

    def _make_room(self, path: bytes, time_ns: int) -> int:
        """Remove what is at `path`, and return the folder for it, which is made if it is missing."""
        parent, _, name = path.rpartition(b"/")
        folder = self._parent(parent, time_ns)
        self._remove(folder, name, path)
        return folder

    def _adopt(self, entry: TarEntry, path: bytes, name: bytes, folder: int) -> None:
        os.chown(name, *self._owner(entry, path), dir_fd=folder, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)

    def _owner(self, entry: TarEntry, path: bytes) -> tuple[int, int]:
        """Return the owner and group that the namespace has; root instead of those that it has not."""
        uid, gid = entry.uid, entry.gid
        if uid not in self._users or gid not in self._groups:
            self._findings.note_owner(path, uid, gid)
            uid, gid = (uid if uid in self._users else 0), (gid if gid in self._groups else 0)
        return uid, gid

    def _note_written(self, path: bytes) -> None:
        """Remember the path and its folders."""
        while path and path not in self._written:
            self._written.add(path)
            path = path.rpartition(b"/")[0]

    def _parent(self, path: bytes, time_ns: int) -> int:
        """Return the open folder `path`. Folders that no layer has named are made, for root and with mode 0755."""
        try:
            return self._open_folder(path)
        except FileNotFoundError:
            above, _, name = path.rpartition(b"/")
            folder = self._parent(above, time_ns)
            os.mkdir(name, 0o700, dir_fd=folder)
            descriptor = self._open_folder(path)
            os.fchmod(descriptor, 0o755)
            self._times[path] = time_ns
            return descriptor
        except OSError as error:
            raise _led_away(error, path) from error

    def _open_folder(self, path: bytes) -> int:
        """Return the descriptor of a folder of the tree, valid until the next call. OSError."""
        if not path:
            return self._root
        if (descriptor := self._open.get(path)) is not None:
            self._open.move_to_end(path)
            return descriptor
        descriptor = open_beneath(self._root, path, _FOLDER)
        self._open[path] = descriptor
        if len(self._open) > MAX_OPEN_FOLDERS:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def _forget(self, path: bytes) -> None:
        """Close the folder `path` and those below it, which are about to be removed."""
        below = path + b"/"
        for known in [each for each in self._open if each == path or each.startswith(below)]:
            os.close(self._open.pop(known))

    def _remove(self, folder: int, name: bytes, path: bytes) -> None:
        """Remove an entry with all that is in it; nothing if there is none."""
        try:
            os.unlink(name, dir_fd=folder)
            return
        except FileNotFoundError:
            return
        except IsADirectoryError:
            self._forget(path)
        inner = open_beneath(folder, name, _FOLDER)
        try:
            for each in _names(inner):
                self._remove(inner, each, b"/".join((path, each)))
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=folder)

    def _remove_lower(self, folder: int, name: bytes, path: bytes) -> None:
        """Remove an entry of the layers below, but not what the present layer has put into it."""
        if path not in self._written:
            self._remove(folder, name, path)
        elif _is_folder(folder, name):
            inner = open_beneath(folder, name, _FOLDER)
            try:
                for each in _names(inner):
                    self._remove_lower(inner, each, b"/".join((path, each)))
            finally:
                os.close(inner)


def _names(folder: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(folder)]


def _is_folder(folder: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _led_away(error: OSError, path: bytes) -> Exception:
    """Return the refusal of an entry below something that is no folder, or the error itself if it is another one."""
    if error.errno not in _OUTSIDE:
        return error
    return LayerInvalidError("it lies below a symbolic link or a file, not in a folder", entry=path, hint=_REMEDY)
