"""Trees of images, written by hand: package databases, Python and npm packages, and programs."""

from __future__ import annotations

import json
import sqlite3
import struct
from typing import TYPE_CHECKING

from profiles.inventory.model import ImageOrigin

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = ImageOrigin("mine", "2", "profile:base@1", f"sha256:{'ab' * 32}", "2026-12-01T09:00:00Z", "berth 1.0")
ELF = b"\x7fELF" + bytes(60)
BOOKWORM = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
Header = dict[int, list[str] | list[int]]
"""Of an rpm package, its values by tag."""


def write(path: Path, content: bytes | str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def paragraph(name: str, version: str = "1.0-1", more: str = "", status: str = "install ok installed") -> str:
    return (
        f"Package: {name}\nStatus: {status}\nArchitecture: amd64\nVersion: {version}\n{more}Description: a\n text\n\n"
    )


def debian_tree(tree: Path, *paragraphs: str, os_release: str = BOOKWORM) -> Path:
    """A Debian with these packages and a merged /usr; dpkg is one of them, with the file /bin/dpkg."""
    write(tree / "var/lib/dpkg/status", "".join([paragraph("dpkg", "1.21.22"), *paragraphs]))
    write(tree / "var/lib/dpkg/info/dpkg.list", "/.\n/bin\n/bin/dpkg\n")
    write(tree / "var/lib/dpkg/info/dpkg.postinst", "#!/bin/sh\n", 0o755)
    write(tree / "usr/bin/dpkg", ELF, 0o755)
    write(tree / "usr/lib/os-release", os_release)
    (tree / "bin").symlink_to("usr/bin")
    return tree


def python_package(site: Path, name: str, version: str, record: str = "") -> Path:
    """A package with its metadata in the folder `site`; return the folder of the metadata."""
    folder = site / f"{name}-{version}.dist-info"
    write(folder / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: other\n")
    write(folder / "RECORD", record)
    return folder


def npm_package(modules: Path, name: str, version: str) -> Path:
    """A package in the folder `modules`; return its folder."""
    write(modules / name / "package.json", json.dumps({"name": name, "version": version}))
    return modules / name


def apk_database(*records: str) -> str:
    return "\n".join(records)


def rpm_header(values: Header) -> bytes:
    """The header of a package, as rpm stores it."""
    index, data = b"", b""
    for tag, items in values.items():
        data += bytes(-len(data) % 4)
        packed = [struct.pack(">I", item) if isinstance(item, int) else item.encode() + b"\0" for item in items]
        kind = 4 if isinstance(items[0], int) else 8
        index += struct.pack(">IIiI", tag, kind, len(data), len(items))
        data += b"".join(packed)
    return struct.pack(">II", len(values), len(data)) + index + data


def rpm_database(file: Path, *headers: bytes) -> Path:
    """A database with these packages, in the mode that rpm uses."""
    file.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
    database.executemany("INSERT INTO Packages (blob) VALUES (?)", [(header,) for header in headers])
    database.commit()
    database.close()
    return file
