"""Packed layers of the plain driver: a squashfs file, and files for what squashfs cannot hold (ADR 114).

A squashfs has no access lists, no times before 1970 or after 2106, and no holes smaller than its blocks; mksquashfs
takes no path above PATH_MAX, and makes an empty file of one that it cannot read, without a word. So the tree is walked
before it is packed: the file `kept` gets a record for each entry that squashfs would change, and folders that lie too
deep are copied to `deep` as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import stat
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.volumes.content import ACCESS_LISTS, LIBC, attribute_names, data_extents, has_holes, set_attribute
from broker.volumes.copied_folders import READ_FLAGS
from broker.volumes.errors import VolumeError
from broker.volumes.layers import SQUASHFS, require_free_space
from broker.volumes.live_copy import TREE, copy_tree
from broker.volumes.program import run_program
from broker.volumes.unreadable import UnreadableFiles
from profiles.local_folder import local_folder
from profiles.removal import remove_tree
from profiles.userfile import read_bytes, read_records
from profiles.walk import Folder, Tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACK_THREADS = "4"
PACK_MEMORY = "256M"
"""Memory of mksquashfs for its queues. Without these two limits it takes a thread for each processor and a quarter of
the memory. All users share a login node, and the launcher limits its children's address space."""
JOB_THREADS, JOB_MEMORY = "2", "64M"
"""The same in a session's job: its processes share the memory that the session was given."""
SQUASHFS_TIMEOUT_S = 3600
"""Seconds for packing or unpacking one layer."""
ZSTD_LEVEL = "1"
"""Measured with 1 GB in 9,800 files on 2 cores: 4 s, to 38 % of the size; gzip took 80 s."""
KEPT, DEEP = "kept", "deep"
ROOT = "root"
"""Beside layers that were packed before there was KEPT: the access lists of their root, as JSON."""
MAX_ROOT_BYTES = 512 * 1024
"""Limit for this file: two attributes of at most 64 KiB (xattr(7)), in hexadecimal."""
MAX_PACKED_PATH_BYTES = 3000
"""A folder with a longer path goes to DEEP: with the path of the layer before it, it stays below PATH_MAX."""
MAX_DEEP_FOLDERS = 100
"""Folders in DEEP: mksquashfs gets their paths as arguments."""
SQUASHFS_TIMES = range(2**32)
"""Seconds that squashfs can hold."""
MAX_HOLES = 10_000
"""Of one file; its smaller holes beyond these are filled, which its content does not show."""
MAX_KEPT_BYTES = 2**30
"""Limit for the file with all records. In its second half no holes are noted."""
MAX_RECORD_BYTES = 2**20
"""Limit for one record: a path, two access lists of 64 KiB in hexadecimal, and the holes."""
ATTRIBUTE_REFUSED = "write_xattr"
"""The message of unsquashfs if it could not set an attribute. It sets attributes after the mode, and a file server
refuses attributes of a read-only file."""
PUNCH_FLAGS = 3
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE of fallocate(2)."""

LEFT_OUT = (b"Failed to read", b"Could not open", b"File name too long")
"""Messages of mksquashfs for a file that is not in the layer as it should be, while its exit code is 0."""

Record = dict[str, Any]
RECORD_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
)
"""Errors from a file that its owner has changed: any JSON may stand where a record is expected."""


def pack_layer(tree: Path, layer: Path, *, in_job: bool = False) -> None:
    """Pack a tree without writers into the new layer's directory. A session's job (`in_job`) tries that with any free
    space, and with less memory.

    VolumeError `space`. UnreadableFilesError names files that cannot be read; nothing is packed then.
    """
    with Tree(tree) as source:
        survey = _PackingSurvey(source)
        with (layer / KEPT).open("wb") as kept:
            kept.writelines(_encode_records(survey.records()))
        if not in_job:
            require_free_space(layer, survey.bytes)
        if len(survey.deep) > MAX_DEEP_FOLDERS:
            raise VolumeError(
                "files", f"more than {MAX_DEEP_FOLDERS} folders have paths above {MAX_PACKED_PATH_BYTES} bytes"
            )
        for number, folder in enumerate(survey.deep):
            copy_tree(os.fsdecode(folder.short_path(b".")), str(layer / DEEP / str(number)))
        paths = [os.fsdecode(os.fsencode(tree) + b"/" + folder.path) for folder in survey.deep]
    left_out = ["-e", *paths] if paths else []
    settings = ["-comp", "zstd", "-Xcompression-level", ZSTD_LEVEL, "-all-root", "-xattrs"]
    bounds = ["-processors", *([JOB_THREADS, "-mem", JOB_MEMORY] if in_job else [PACK_THREADS, "-mem", PACK_MEMORY])]
    quietly = ["-noappend", "-no-progress", "-quiet", "-no-recovery"]
    _run_squashfs_tool("mksquashfs", str(tree), str(layer / SQUASHFS), *settings, *bounds, *quietly, *left_out)


def has_access_lists(squashfs: Path) -> bool:
    """Whether the access lists of a packed layer were kept."""
    return os.path.lexists(squashfs.parent / KEPT)


def unpack_layer(squashfs: Path, target: Path) -> None:
    """Unpack a layer into the new directory `target`, with everything that is kept beside it.

    VolumeError `space`, `files`; OSError.
    """
    require_free_space(target.parent, squashfs.stat().st_size * 2)
    try:
        _unsquash(squashfs, target)
    except VolumeError as error:
        if ATTRIBUTE_REFUSED not in str(error):
            raise
        remove_tree(target)
        _unsquash_on_local_disk(squashfs, target)
    layer = squashfs.parent
    with Tree(target) as tree:
        if has_access_lists(squashfs):
            for record in read_records(layer / KEPT, MAX_KEPT_BYTES, longest=MAX_RECORD_BYTES):
                said, _, path = record.partition(b" ")
                try:
                    _restore_entry(json.loads(said), tree, path, layer)
                except RECORD_ERRORS as error:
                    raise VolumeError("files", f"{layer / KEPT} is damaged") from error
        else:
            for name, value in _read_root_lists(layer / ROOT).items():
                os.setxattr(tree.root_descriptor, name, value)


def _unsquash(squashfs: Path, target: Path) -> None:
    options = ["-quiet", "-no-progress", "-processors", PACK_THREADS, "-xattrs"]
    _run_squashfs_tool("unsquashfs", *options, "-dest", str(target), str(squashfs))


def _unsquash_on_local_disk(squashfs: Path, target: Path) -> None:
    """Unpack where attributes can be set, and copy the tree from there: a copy gets its modes last."""
    with local_folder() as local:
        room = Path(tempfile.mkdtemp(prefix=".unpack-", dir=target.parent))
        try:
            require_free_space(local, squashfs.stat().st_size * 2)
            _unsquash(squashfs, local / TREE)
            copy_tree(str(local / TREE), str(room))
            copied = room / TREE
            mode = stat.S_IMODE(copied.stat().st_mode)
            copied.chmod(0o700)  # a folder that is not writable cannot get another parent
            copied.rename(target)
            target.chmod(mode)
        finally:
            remove_tree(room)


def _encode_records(records: Iterable[tuple[bytes, Record]]) -> Iterator[bytes]:
    """Yield paths and their records as KEPT has them. VolumeError `files` if they are more than can be read again."""
    left = MAX_KEPT_BYTES
    for path, record in records:
        noted = record if left > MAX_KEPT_BYTES // 2 else {key: said for key, said in record.items() if key != "holes"}
        if not noted:
            continue
        line = json.dumps(noted, separators=(",", ":")).encode() + b" " + path + b"\0"
        left -= len(line)
        if left < 0:
            what = "access lists, odd times and long paths of these files"
            raise VolumeError("files", f"the {what} take more than {MAX_KEPT_BYTES >> 20} MiB beside a packed layer")
        yield line


class _PackingSurvey:
    """A look at a tree before it is packed."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.bytes = 0
        """Of the disk; a file with several names counts once."""
        self.deep: list[Folder] = []
        """Folders that squashfs-tools would leave out."""
        self._unreadable = UnreadableFiles()

    def records(self) -> Iterator[tuple[bytes, Record]]:
        """Yield path and record of each entry that squashfs would change. UnreadableFilesError at the end, OSError.

        A folder comes after all below it: what is done there changes its times.
        """
        counted: set[int] = set()
        of_folders: list[tuple[bytes, Record]] = []
        waiting = [self._tree.root]
        while waiting:
            folder = waiting.pop()
            path = folder.path
            if len(path) > MAX_PACKED_PATH_BYTES:
                of_folders.append((path, {"deep": len(self.deep)}))
                self.deep.append(folder)
                continue
            try:
                if record := _entry_record(folder.descriptor(), os.fstat(folder.descriptor())):
                    of_folders.append((path, record))
                for entry in folder.entries():
                    name, status = os.fsencode(entry.name), entry.stat(follow_symlinks=False)
                    if status.st_ino not in counted:
                        self.bytes += status.st_blocks * 512
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(folder.folder(name))
                        continue
                    if status.st_nlink > 1:
                        counted.add(status.st_ino)
                    if record := self._of_file(folder, name, status):
                        yield folder.below(name), record
            except PermissionError:
                self._unreadable.add(folder.path or b".", is_folder=True)
        self._unreadable.refuse()
        yield from reversed(of_folders)

    def _of_file(self, folder: Folder, name: bytes, status: os.stat_result) -> Record:
        if not stat.S_ISREG(status.st_mode):
            return _entry_record(folder.short_path(name), status)
        try:
            descriptor = os.open(name, READ_FLAGS, dir_fd=folder.descriptor())
        except PermissionError:
            self._unreadable.add(folder.below(name))
            return {}
        try:
            return _entry_record(descriptor, status)
        finally:
            os.close(descriptor)


def _entry_record(entry: int | bytes, status: os.stat_result) -> Record:
    """Return what squashfs does not hold of an open file or folder, or of something else by its path."""
    record: Record = {}
    follow = isinstance(entry, int)  # a descriptor; the system calls that take one want this to be so
    there = attribute_names(entry)
    if lists := [name for name in ACCESS_LISTS if name in there]:
        record["lists"] = {name: os.getxattr(entry, name, follow_symlinks=follow).hex() for name in lists}
    if status.st_mtime_ns // 10**9 not in SQUASHFS_TIMES:
        record["mtime"] = status.st_mtime_ns
    if isinstance(entry, int) and stat.S_ISREG(status.st_mode) and has_holes(status):
        record["holes"] = _find_holes(entry, status.st_size)
    return record


def _find_holes(descriptor: int, size: int) -> list[tuple[int, int]]:
    """Return the holes of a file as pairs of begin and length, the longest first."""
    extents = data_extents(descriptor, size)
    begins = [0, *(end for _, end in extents)]
    ends = [*(begin for begin, _ in extents), size]
    holes = [(begin, end - begin) for begin, end in zip(begins, ends, strict=True) if begin < end]
    return sorted(holes, key=lambda hole: -hole[1])[:MAX_HOLES]


def _restore_entry(record: Record, tree: Tree, path: bytes, layer: Path) -> None:
    """Give the entry that was unpacked at `path` the properties in its record. OSError."""
    *above, name = path.split(b"/") if path else [b"."]
    if path and not {b"", b".", b".."}.isdisjoint({*above, name}):
        raise ValueError("no path within a tree")
    folder = tree.root
    for each in above:
        folder = folder.folder(each)
    if "deep" in record:
        _restore_deep_folder(
            layer / DEEP / str(int(record["deep"])) / TREE, folder, name, Path(os.fsdecode(layer)).parent
        )
        return
    here = folder.descriptor()
    status = os.stat(name, dir_fd=here, follow_symlinks=False)
    if stat.S_ISREG(status.st_mode):
        _punch_holes(name, here, record.get("holes", []))
    for attribute in ACCESS_LISTS:
        if attribute in record.get("lists", {}):
            set_attribute(folder.short_path(name), attribute, bytes.fromhex(record["lists"][attribute]))
    mtime = int(record.get("mtime", status.st_mtime_ns))
    os.utime(name, ns=(status.st_atime_ns, mtime), dir_fd=here, follow_symlinks=False)


def _punch_holes(name: bytes, folder: int, holes: list[tuple[int, int]]) -> None:
    """Make holes in a file that has zeros there; where the file system or the file's mode forbids it, they stay."""
    if not holes:
        return
    with contextlib.suppress(PermissionError):
        descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            for begin, length in holes:
                LIBC.fallocate(descriptor, PUNCH_FLAGS, ctypes.c_int64(begin), ctypes.c_int64(length))
        finally:
            os.close(descriptor)


def _restore_deep_folder(source: Path, folder: Folder, name: bytes, layers: Path) -> None:
    """Copy a folder that was kept unpacked to `name` in `folder`, whose times stay what they are."""
    status = os.fstat(folder.descriptor())
    room = tempfile.mkdtemp(prefix=".deep-", dir=layers)
    try:
        copy_tree(str(source), room)
        os.rename(f"{room}/{TREE}", name, dst_dir_fd=folder.descriptor())
    finally:
        shutil.rmtree(room, ignore_errors=True)
    os.utime(folder.descriptor(), ns=(status.st_atime_ns, status.st_mtime_ns))


def _read_root_lists(path: Path) -> dict[str, bytes]:
    """Return the access lists that were noted beside a packed layer. VolumeError `files` for a damaged file."""
    try:
        lists = json.loads(read_bytes(path, MAX_ROOT_BYTES))
        return {name: bytes.fromhex(lists[name]) for name in ACCESS_LISTS if name in lists}
    except FileNotFoundError:  # the layer is older than this file
        return {}
    except RECORD_ERRORS as error:
        raise VolumeError("files", f"{path} is damaged") from error


def _run_squashfs_tool(*command: str) -> None:
    """Run squashfs-tools as root of the user's own files: only as root they make marks of deletion, which every user
    may.
    """
    argv = ["unshare", "--map-root-user", "--", *command]
    try:
        done = run_program(argv, timeout=SQUASHFS_TIMEOUT_S, env=os.environ | {"MALLOC_ARENA_MAX": "2"})
    except subprocess.TimeoutExpired as error:
        raise VolumeError("files", f"{command[0]} did not end within {SQUASHFS_TIMEOUT_S} s") from error
    except FileNotFoundError as error:
        raise VolumeError("files", "unshare is not installed (util-linux)") from error
    if done.returncode != 0 or any(sign in done.stderr for sign in LEFT_OUT):
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
        words = words or f"{command[0]} ended with {done.returncode}"
        full = "No space left" in words or "quota" in words.lower()
        raise VolumeError("space" if full else "files", words)
