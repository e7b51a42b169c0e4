"""Read rpm's packages, and the files that they own, from its SQLite database. Nothing of rpm is run.

Each row holds a header: two numbers of 4 bytes, the count of its index and the length of its data; then the index, 16
bytes an entry (tag, type, offset, count); then the data. rpm's rpmtag.h has the tags. The older databases, of Berkeley
DB and of ndb, are not read.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.inventory.model import DATABASE_REMEDY, InstalledPackage, InventoryError, PackageKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.inventory.image_tree_reader import ImageTreeReader

RPM_FOLDERS = ("usr/lib/sysimage/rpm", "var/lib/rpm")
OLD_RPM_DATABASES = ("Packages", "Packages.db")
MAX_RPM_BYTES = 512 << 20
"""Of a Fedora with 2,000 packages it has 150 MB."""
MAX_SQLITE_STEPS = 2_000_000
"""Thousands of SQLite's instructions: above what reading all rows takes, and below an endless view."""
_NAME_TAG, _VERSION_TAG, _RELEASE_TAG, _EPOCH_TAG, _ARCH_TAG, _SOURCE_RPM_TAG = 1000, 1001, 1002, 1003, 1022, 1044
_FOLDER_INDEXES_TAG, _BASE_NAMES_TAG, _FOLDER_NAMES_TAG = 1116, 1117, 1118
_INT32 = 4
"""The type of numbers; those of texts end with a NUL each."""
_TEXT = re.compile(r"[0-9A-Za-z.+~^_-]{1,200}")
_SOURCE = re.compile(r"([0-9A-Za-z.+_-]{1,200})-([^-]{1,100}-[^-]{1,100})\.(?:no)?src\.rpm")


def read_rpm(reader: ImageTreeReader) -> tuple[list[InstalledPackage], list[bytes]]:
    """Return the installed packages, and the relative paths of their files.

    InventoryError for a database that is damaged, or in a form that is not read.
    """
    for folder in RPM_FOLDERS:
        content = reader.read(f"{folder}/rpmdb.sqlite", MAX_RPM_BYTES)
        if content is not None:
            _require_no_log(reader, f"{folder}/rpmdb.sqlite-wal")
            return _read_database(content, f"/{folder}/rpmdb.sqlite")
        for name in OLD_RPM_DATABASES:
            if reader.status(f"{folder}/{name}"):
                raise InventoryError(
                    f"/{folder}/{name} of the image is a package database in an old form of rpm, which is not read",
                    hint="`rpm --rebuilddb` of rpm 4.16 or newer, in the image, makes rpmdb.sqlite of it",
                )
    return [], []


def _require_no_log(reader: ImageTreeReader, place: str) -> None:
    """Raise InventoryError if changes are in the database's write-ahead log only: a copy of the file lacks them."""
    status = reader.status(place)
    if status is not None and status.st_size > 0:
        raise InventoryError(
            f"/{place} of the image has changes that rpm has not written to its database",
            hint="`rpm --rebuilddb`, in the image, writes them",
        )


def _read_database(content: bytes, place: str) -> tuple[list[InstalledPackage], list[bytes]]:
    packages, files = list[InstalledPackage](), list[bytes]()
    try:
        for blob in _rows(content):
            header = _Header.parse(blob)
            if header.text(_NAME_TAG) != "gpg-pubkey":  # a key of a repository, which rpm lists as a package
                packages.append(_package(header))
                files += header.files()
    except (sqlite3.Error, struct.error, ValueError, IndexError, KeyError, TypeError) as error:
        raise InventoryError(f"{place} of the image is damaged", hint=DATABASE_REMEDY) from error
    if not packages:
        raise InventoryError(f"{place} of the image lists no package", hint=DATABASE_REMEDY)
    return packages, files


def _rows(content: bytes) -> Iterator[bytes]:
    """Yield the headers, from a copy in memory in which nothing can be locked or written."""
    if not content.startswith(b"SQLite format 3\0"):
        raise ValueError("no database")
    if content[18:20] == b"\x02\x02":  # a write-ahead log, which a database in memory cannot have
        content = content[:18] + b"\x01\x01" + content[20:]
    steps = iter(range(MAX_SQLITE_STEPS))
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(content)
        database.execute("PRAGMA trusted_schema = OFF")
        database.set_progress_handler(lambda: next(steps, None) is None, 1000)
        [[kind]] = database.execute("SELECT type FROM sqlite_master WHERE name = 'Packages'").fetchall()
        if kind != "table":
            raise ValueError("no table")
        for (blob,) in database.execute("SELECT blob FROM Packages"):
            if not isinstance(blob, bytes):
                raise TypeError("no header")
            yield blob


@dataclass(frozen=True, slots=True)
class _Header:
    """One package: its index by tag, as (type, offset, count), and the data."""

    index: dict[int, tuple[int, int, int]]
    data: bytes

    @classmethod
    def parse(cls, blob: bytes) -> _Header:
        count, length = struct.unpack_from(">II", blob)
        if len(blob) != 8 + 16 * count + length:
            raise ValueError("wrong length")
        entries = struct.iter_unpack(">IIiI", blob[8 : 8 + 16 * count])
        return cls({tag: (kind, offset, number) for tag, kind, offset, number in entries}, blob[8 + 16 * count :])

    def texts(self, tag: int) -> list[bytes]:
        if tag not in self.index:
            return []
        _, offset, count = self.index[tag]
        if not (0 <= offset < len(self.data) and count <= len(self.data)):
            raise ValueError("outside of the data")
        texts = self.data[offset:].split(b"\0", count)[:count]
        if len(texts) != count:
            raise ValueError("too few texts")
        return texts

    def text(self, tag: int) -> str:
        return next((text.decode() for text in self.texts(tag)), "")

    def numbers(self, tag: int) -> list[int]:
        if tag not in self.index:
            return []
        kind, offset, count = self.index[tag]
        if kind != _INT32 or offset < 0 or offset + 4 * count > len(self.data):
            raise ValueError("no numbers")
        return list(struct.unpack_from(f">{count}I", self.data, offset))

    def files(self) -> Iterator[bytes]:
        folders = [name.lstrip(b"/") for name in self.texts(_FOLDER_NAMES_TAG)]
        for index, name in zip(self.numbers(_FOLDER_INDEXES_TAG), self.texts(_BASE_NAMES_TAG), strict=True):
            yield folders[index] + name


def _package(header: _Header) -> InstalledPackage:
    name, version, release, arch = (header.text(tag) for tag in (_NAME_TAG, _VERSION_TAG, _RELEASE_TAG, _ARCH_TAG))
    if not all(_TEXT.fullmatch(text) for text in (name, version, release, arch)):
        raise ValueError("no valid name or version")
    epoch = next(iter(header.numbers(_EPOCH_TAG)), 0)
    full = f"{epoch}:{version}-{release}" if epoch else f"{version}-{release}"
    source = _SOURCE.fullmatch(header.text(_SOURCE_RPM_TAG))
    return InstalledPackage(
        PackageKind.RPM, name, full, arch, source[1] if source else name, source[2] if source else full
    )
