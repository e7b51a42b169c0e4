"""Read Python packages: the folders `*.dist-info` and `*.egg-info` of every site-packages, wherever it is.

The core metadata specification of packaging.python.org has the form of METADATA and PKG-INFO; RECORD is in the one of
recorded projects. No Python of the image runs.
"""

from __future__ import annotations

import csv
import posixpath
import re
from typing import TYPE_CHECKING

from profiles.inventory.image_tree_reader import read_in, start_of
from profiles.inventory.model import InstalledPackage, PackageKind, name_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.walk import Folder, TreeEntry

METADATA_BYTES = 1 << 18
"""Name and version come first, before a description of any length."""
MAX_PYTHON_RECORD_BYTES = 64 << 20
"""torch 2.12 has 1.4 MB."""
_FIELD = re.compile(r"^(Name|Version): *(\S+) *\r?$", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,200}[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,200}")


def is_python_metadata(entry: TreeEntry) -> bool:
    """Whether this is the file with name and version of a Python package."""
    folder = entry.folder.name
    if entry.name == b"METADATA":
        return folder.endswith(b".dist-info")
    return folder.endswith(b".egg-info") if entry.name == b"PKG-INFO" else entry.name.endswith(b".egg-info")


def read_python_package(entry: TreeEntry) -> InstalledPackage | str:
    """Return the package of this metadata file, or the reason why it has none. InventoryError if it is unreadable."""
    text = start_of(entry.folder, entry.name, METADATA_BYTES).decode("utf-8", "replace")
    fields = dict(_FIELD.findall(re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]))
    name, version = fields.get("Name", ""), fields.get("Version", "")
    if not _NAME.fullmatch(name):
        return "it has no valid name of a Python package"
    if not _VERSION.fullmatch(version):
        return "it has no valid version of a Python package"
    place = entry.folder if entry.name.endswith(b".egg-info") else _parent(entry.folder)
    return InstalledPackage(
        PackageKind.PYPI, normalised_python_name(name), version, locations=("/" + name_text(place.path),)
    )


def normalised_python_name(name: str) -> str:
    """Return the name that all spellings of a Python package share (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def python_files(entry: TreeEntry) -> Iterator[bytes]:
    """Yield the relative paths of the files that the package of this metadata file has installed."""
    if entry.name != b"METADATA":
        return
    content = read_in(entry.folder, b"RECORD", MAX_PYTHON_RECORD_BYTES) or b""
    site = _parent(entry.folder).path.decode("utf-8", "surrogateescape")
    lines = content.decode("utf-8", "surrogateescape").replace("\0", "").splitlines()
    try:
        for row in csv.reader(lines):
            if row and not row[0].startswith("/"):
                path = posixpath.normpath(posixpath.join("/", site, row[0]))
                yield path.lstrip("/").encode("utf-8", "surrogateescape")
    except csv.Error:  # a damaged line: what it names, and all after it, counts as owned by no package
        return


def _parent(folder: Folder) -> Folder:
    return folder.parent or folder
