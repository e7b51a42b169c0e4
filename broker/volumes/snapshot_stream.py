"""The stream of records by which one user's process sends a snapshot to another user's process.

A stream is MAGIC, then records: a kind (one byte), the number of bytes of its content, and the content. Each name is
the name of one entry in the folder that the records before have entered; so there are no paths in a stream.

| kind | content |
|---|---|
| BEGIN | an upper bound of the bytes and of the entries to come |
| VOLUME | `home` or `system` |
| FOLDER | mode, time of modification (ns), 1 if it hides the image's folder, name; its entries follow |
| LEAVE | the folder is complete |
| FILE | mode, time, size in bytes, 1 if later records link to it, name |
| ATTRIBUTE | length of its name, name, value; of the folder or file before |
| DATA | offset in the file, bytes; what no record writes is a hole |
| SYMLINK | time, length of its name, name, target |
| LINK | the number of a file to which records link, counted from 0 in a volume; a further name of it |
| DELETED | a name of the image that the system volume hides |
| END | the number of entries; nothing follows |
| FAILED | one of FAILURES: the sender could not read its files |

The reader of a stream trusts nothing in it: `read_snapshot_records` checks the frame of each record, and
tree_receiver.py what is in it. The standard library alone.
"""

from __future__ import annotations

import os
import struct
from typing import IO, TYPE_CHECKING, NamedTuple

from broker.volumes.errors import VolumeError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"berth-snapshot-1\n"
BEGIN, VOLUME, FOLDER, LEAVE, FILE, ATTRIBUTE = b"B", b"V", b"D", b"U", b"F", b"A"
DATA, SYMLINK, LINK, DELETED, END, FAILED = b"P", b"S", b"L", b"X", b"E", b"!"
KINDS = frozenset((BEGIN, VOLUME, FOLDER, LEAVE, FILE, ATTRIBUTE, DATA, SYMLINK, LINK, DELETED, END, FAILED))
HEAD = struct.Struct(">cI")
BEGIN_HEAD = struct.Struct(">QQ")
FOLDER_HEAD = struct.Struct(">HqB")
FILE_HEAD = struct.Struct(">HqQB")
ATTRIBUTE_HEAD = struct.Struct(">H")
DATA_HEAD = struct.Struct(">Q")
SYMLINK_HEAD = struct.Struct(">qH")
LINK_HEAD = struct.Struct(">I")
END_HEAD = struct.Struct(">Q")

MAX_PIECE_BYTES = 1 << 18
"""Most bytes of a file in one record."""
MAX_CONTENT_BYTES = MAX_PIECE_BYTES + 64
MAX_NAME_BYTES = 255
"""NAME_MAX in limits.h."""
MAX_TARGET_BYTES = 4095
"""Of a symbolic link: PATH_MAX in limits.h, without its last byte."""
MAX_VALUE_BYTES = 1 << 16
"""XATTR_SIZE_MAX in limits.h."""
PERMISSIONS = 0o777
"""The bits of a mode that a stream has."""
HIDDEN_ATTRIBUTES = ("user.overlay.", "user.fuseoverlayfs.", "user.containers.")
"""Prefixes of attributes that programs for containers read as marks: they are not sent."""
FAILURES = frozenset({"missing", "space", "files"})
PIPE_BYTES = 1 << 20

MALFORMED = "the other user's process sent an invalid record"


class StreamRecord(NamedTuple):
    kind: bytes
    content: bytes


class MalformedStreamError(VolumeError):
    """A record that no sender of ours writes."""

    def __init__(self, why: str) -> None:
        super().__init__("files", f"{MALFORMED}: {why}")


class SnapshotStream:
    """Writes records into a pipe, many at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting = bytearray(MAGIC)

    def add(self, kind: bytes, *parts: bytes) -> None:
        """Send a record. OSError if no process reads any more."""
        self._waiting += HEAD.pack(kind, sum(map(len, parts)))
        for part in parts:
            self._waiting += part
        if len(self._waiting) >= MAX_PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        view = memoryview(self._waiting)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._waiting = bytearray()


def read_snapshot_records(stream: IO[bytes]) -> Iterator[StreamRecord]:
    """Yield the records up to END, which is the last one. MalformedStreamError.

    VolumeError `ended` if the stream ends before it is complete; the kind of FAILED if the sender has failed.
    """
    if _read(stream, len(MAGIC)) != MAGIC:
        raise MalformedStreamError("the beginning is unknown")
    while True:
        kind, length = HEAD.unpack(_read(stream, HEAD.size))
        if kind not in KINDS:
            raise MalformedStreamError("its kind is unknown")
        if length > MAX_CONTENT_BYTES + (MAX_VALUE_BYTES if kind == ATTRIBUTE else 0):
            raise MalformedStreamError("it is too long")
        record = StreamRecord(kind, _read(stream, length))
        if kind == FAILED:
            raise _failure(record.content)
        if kind == END and stream.read(1):
            raise MalformedStreamError("something follows the end")
        yield record
        if kind == END:
            return


def check_entry_name(name: bytes) -> bytes:
    """Return the name of one entry of a folder. MalformedStreamError."""
    if not 0 < len(name) <= MAX_NAME_BYTES or name in {b".", b".."} or b"/" in name or b"\0" in name:
        raise MalformedStreamError("a name is invalid")
    return name


def check_mode(mode: int) -> int:
    """Return the permissions of an entry. MalformedStreamError if there are other bits."""
    if mode & ~PERMISSIONS:
        raise MalformedStreamError("a mode has more than permissions")
    return mode


def is_sent_attribute(name: str) -> bool:
    """Whether an extended attribute is content that may be sent."""
    return name.startswith("user.") and not name.startswith(HIDDEN_ATTRIBUTES)


def check_attribute(name: bytes) -> str:
    """Return the name of an attribute that may be set. MalformedStreamError."""
    text = os.fsdecode(name)
    if not len("user.") < len(name) <= MAX_NAME_BYTES or b"\0" in name or not is_sent_attribute(text):
        raise MalformedStreamError("an attribute is not of the kind that is sent")
    return text


def unpack_head(head: struct.Struct, content: bytes) -> tuple[tuple[int, ...], bytes]:
    """Return the numbers at the beginning of a record's content, and the rest. MalformedStreamError."""
    if len(content) < head.size:
        raise MalformedStreamError("it is too short")
    return head.unpack_from(content), content[head.size :]


def _read(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise VolumeError("ended", "the other user's process ended before the snapshot was complete")
    return content


def _failure(content: bytes) -> VolumeError:
    kind = content.decode("ascii", "replace")
    if kind not in FAILURES:
        return MalformedStreamError("its failure is unknown")
    if kind == "missing":
        return VolumeError(kind, "this snapshot does not exist any more")
    return VolumeError("files", "the files of the snapshot could not be read as their owner")
