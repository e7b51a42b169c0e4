"""A lean reader of tar archives: POSIX ustar and pax, and GNU's long names.

Layers are streams of some gigabytes with a hundred thousand files, for which Python's `tarfile` is too slow. Nothing
here trusts the archive: each number and each length is checked before it is used. Raises LayerInvalidError.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from profiles.errors import LayerInvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 512
MAX_EXTENSION_BYTES = 1 << 20
"""Bytes of one pax header or one long name."""
MAX_TIME_S = 2**32 - 1
"""The newest time that squashfs can hold."""
MAX_NUMBER = 2**63 - 1

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_CHECKSUM = slice(148, 156)
_BLANK_CHECKSUM = 8 * ord(" ")
_XATTR = b"SCHILY.xattr."


class EntryType(StrEnum):
    FILE = "file"
    DIRECTORY = "folder"
    SYMLINK = "symbolic link"
    HARD_LINK = "hard link"
    FIFO = "named pipe"
    DEVICE = "device"


_TYPES = {
    b"0": EntryType.FILE,
    b"\0": EntryType.FILE,
    b"7": EntryType.FILE,
    b"1": EntryType.HARD_LINK,
    b"2": EntryType.SYMLINK,
    b"3": EntryType.DEVICE,
    b"4": EntryType.DEVICE,
    b"5": EntryType.DIRECTORY,
    b"6": EntryType.FIFO,
}
_CONTENT_TYPES = {b"0", b"\0", b"7"}


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One member of an archive. `name` and `link` are as written; the other values are in range."""

    name: bytes
    kind: EntryType
    size: int
    """Bytes of content, which follow in the stream."""
    mode: int
    """Permissions with the set-id and sticky bits."""
    uid: int
    gid: int
    mtime_ns: int
    """Nanoseconds since the epoch, from 0 to what squashfs can hold."""
    link: bytes
    xattrs: tuple[bytes, ...]
    """Names of extended attributes."""


class ByteStream(Protocol):
    """The bytes of an archive, from the first to the last."""

    @property
    def position(self) -> int:
        """The number of bytes that have been read or skipped."""

    def read_exactly(self, count: int) -> bytes:
        """Return the next bytes; fewer only at the end."""

    def skip(self, count: int) -> None:
        """Pass over the next bytes, or to the end if there are fewer."""


def read_entries(stream: ByteStream) -> Iterator[TarEntry]:
    """Yield the members in order. Before it continues, the caller may read the content of the entry from `stream`.

    Raises LayerInvalidError.
    """
    extensions = _Extensions()
    while (header := stream.read_exactly(BLOCK_BYTES)) and header != _ZERO_BLOCK:
        if len(header) < BLOCK_BYTES:
            raise LayerInvalidError("the archive ends within a header")
        fields = _HEADER.unpack(header)
        _check_sum(header, fields[6])
        size, flag = _number(fields[4], "size"), fields[7]
        if flag in {b"x", b"g", b"L", b"K"}:
            extensions.take(flag, _extension(stream, size))
            continue
        entry = _entry(fields, flag, size, extensions)
        extensions = _Extensions()
        end = stream.position + entry.size
        yield entry
        stream.skip(end + -entry.size % BLOCK_BYTES - stream.position)
        if stream.position < end:
            raise LayerInvalidError("the archive ends within the content of an entry", entry=entry.name)
    if extensions.is_pending:
        raise LayerInvalidError("the archive ends after a header of an entry that is missing")


class _Extensions:
    """The pax headers and long names that belong to the next entry."""

    def __init__(self) -> None:
        self.name = b""
        self.link = b""
        self.records: dict[bytes, bytes] = {}

    @property
    def is_pending(self) -> bool:
        return bool(self.name or self.link or self.records)

    def take(self, flag: bytes, content: bytes) -> None:
        """Keep what a special member says. Global pax headers describe the archive, and say nothing about entries."""
        if flag == b"L":
            self.name = content.partition(b"\0")[0]
        elif flag == b"K":
            self.link = content.partition(b"\0")[0]
        elif flag == b"x":
            self.records = dict(_pax_records(content))


def _extension(stream: ByteStream, size: int) -> bytes:
    if size > MAX_EXTENSION_BYTES:
        raise LayerInvalidError(f"a header has {size} bytes, and {MAX_EXTENSION_BYTES} are the most")
    content = stream.read_exactly(size)
    padding = stream.read_exactly(-size % BLOCK_BYTES)
    if len(content) < size or len(padding) < -size % BLOCK_BYTES:
        raise LayerInvalidError("the archive ends within a header")
    return content


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of a pax header: a length, a blank, KEY=VALUE, and a line end."""
    at = 0
    while at < len(content):
        length, space, _ = content[at : at + 9].partition(b" ")
        if not space or not _DECIMAL.fullmatch(length):
            raise LayerInvalidError("a pax header has a record without a length")
        end = at + int(length)
        record = content[at + len(length) + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end <= at + len(length) + 1 or end > len(content) or record[-1:] != b"\n" or not equals or not key:
            raise LayerInvalidError("a pax header has a damaged record")
        yield key, value
        at = end


def _entry(fields: tuple[bytes, ...], flag: bytes, size: int, extensions: _Extensions) -> TarEntry:
    records = extensions.records
    name = records.get(b"path") or extensions.name or _short_name(fields)
    shown = name[:200]
    if flag == b"S" or any(key.startswith(b"GNU.sparse.") for key in records):
        raise LayerInvalidError("it is a sparse file, which Berth does not read", entry=shown)
    kind = _TYPES.get(flag)
    if kind is None:
        raise LayerInvalidError(f"it is of the unknown type {flag!r}", entry=shown)
    if b"size" in records:
        size = _decimal(records[b"size"], "size", shown)
    if flag not in _CONTENT_TYPES:
        size = 0  # as other readers do: a link or folder has no content whatever its header says
    elif name.endswith(b"/"):
        if size:
            raise LayerInvalidError("its name is that of a folder, and it has content", entry=shown)
        kind = EntryType.DIRECTORY
    return TarEntry(
        name=name,
        kind=kind,
        size=size,
        mode=_number(fields[1], "mode", shown) & 0o7777,
        uid=_decimal(records[b"uid"], "uid", shown) if b"uid" in records else _number(fields[2], "uid", shown),
        gid=_decimal(records[b"gid"], "gid", shown) if b"gid" in records else _number(fields[3], "gid", shown),
        mtime_ns=_time(records[b"mtime"], shown) if b"mtime" in records else _header_time(fields[5], shown),
        link=records.get(b"linkpath") or extensions.link or fields[8].partition(b"\0")[0],
        xattrs=tuple(key.removeprefix(_XATTR) for key in records if key.startswith(_XATTR)),
    )


def _short_name(fields: tuple[bytes, ...]) -> bytes:
    """Join the two fields of a name. GNU's magic, `ustar  `, has other data in the place of the prefix."""
    name, prefix = fields[0].partition(b"\0")[0], fields[15].partition(b"\0")[0]
    is_posix = fields[9].startswith(b"ustar\0")
    return b"/".join((prefix, name)) if is_posix and prefix else name


def _check_sum(header: bytes, written: bytes) -> None:
    total = sum(header) - sum(header[_CHECKSUM]) + _BLANK_CHECKSUM
    number = _OCTAL.fullmatch(written)
    if number is None or int(number[1] or b"0", 8) != total:
        raise LayerInvalidError("a header has a wrong checksum: this is no tar archive, or a damaged one")


def _number(field: bytes, what: str, entry: bytes = b"") -> int:
    """Read an octal field, or a binary one as GNU tar writes numbers that do not fit."""
    if field[0] & 0x80:
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:  # a negative number
            number = -1
    else:
        octal = _OCTAL.match(field)
        if octal is None or field[octal.end() :].strip(b"\0"):
            raise LayerInvalidError(f"its {what} is no number", entry=entry)
        number = int(octal[1] or b"0", 8)
    if not 0 <= number <= MAX_NUMBER:
        raise LayerInvalidError(f"its {what} is out of range", entry=entry)
    return number


def _header_time(field: bytes, entry: bytes) -> int:
    if field[0] == 0xFF:  # before 1970
        return 0
    return min(_number(field, "time", entry), MAX_TIME_S) * 10**9


def _decimal(text: bytes, what: str, entry: bytes) -> int:
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_NUMBER:
        raise LayerInvalidError(f"its {what} is out of range", entry=entry)
    return int(text)


def _time(text: bytes, entry: bytes) -> int:
    """Read seconds with a fraction; times that squashfs cannot hold become the nearest one."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise LayerInvalidError("its time is no number", entry=entry)
    if found[1]:
        return 0
    seconds = int(found[2])
    return min(seconds, MAX_TIME_S) * 10**9 + (int((found[3] or b"")[:9].ljust(9, b"0")) if seconds < MAX_TIME_S else 0)
