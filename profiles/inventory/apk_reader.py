"""Read Alpine's packages, and the files that they own: `lib/apk/db/installed`, which apk-package(5) describes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from profiles.inventory.model import DATABASE_REMEDY, InstalledPackage, InventoryError, PackageKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.inventory.image_tree_reader import ImageTreeReader

DATABASES = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
MAX_APK_BYTES = 256 << 20
_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9+._-]{0,200}")
_VERSION = re.compile(r"[0-9][0-9a-zA-Z._+~-]{0,200}")
_ARCHITECTURE = re.compile("[a-z0-9_-]{0,40}")


def read_apk(reader: ImageTreeReader) -> tuple[list[InstalledPackage], list[bytes]]:
    """Return the installed packages, and the relative paths of their files. InventoryError for a damaged list."""
    for place in DATABASES:
        content = reader.read(place, MAX_APK_BYTES)
        if content is not None:
            packages = [_package(lines, place) for lines in _records(content)]
            if not packages:
                raise InventoryError(f"/{place} of the image lists no package", hint=DATABASE_REMEDY)
            return packages, [path for lines in _records(content) for path in _files(lines)]
    return [], []


def _records(content: bytes) -> Iterator[list[bytes]]:
    for record in re.split(rb"\n{2,}", content.strip(b"\n")):
        if record:
            yield record.split(b"\n")


def _package(lines: list[bytes], place: str) -> InstalledPackage:
    fields = {line[:1]: line[2:].decode("utf-8", "replace") for line in lines if line[1:2] == b":"}
    name, version = fields.get(b"P", ""), fields.get(b"V", "")
    source, architecture = fields.get(b"o", "") or name, fields.get(b"A", "")
    valid = (_NAME.fullmatch(name), _NAME.fullmatch(source), _VERSION.fullmatch(version))
    if not all(valid) or not _ARCHITECTURE.fullmatch(architecture):
        raise InventoryError(
            f"/{place} of the image is damaged: a package has no valid name or version", hint=DATABASE_REMEDY
        )
    return InstalledPackage(PackageKind.APK, name, version, architecture, source, version)


def _files(lines: list[bytes]) -> Iterator[bytes]:
    folder = b""
    for line in lines:
        if line.startswith(b"F:"):
            folder = line[2:]
        elif line.startswith(b"R:"):
            yield b"/".join((folder, line[2:])) if folder else line[2:]
