"""Make the inventory of an image's tree, in one walk through it.

The tree may be a stranger's. Nothing in it runs, no link is followed, and everything that is read has a limit. A
package database says what it likes: the inventory repeats it.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from profiles.inventory.apk_reader import read_apk
from profiles.inventory.cyclonedx_reader import MAX_SBOM_BYTES, UNREADABLE, parse_inventory
from profiles.inventory.dpkg_reader import dpkg_files, read_dpkg
from profiles.inventory.image_tree_reader import ImageTreeReader, digest_in, start_of
from profiles.inventory.model import (
    CYCLONEDX_NAME,
    DATABASE_REMEDY,
    INVENTORY_PLACE,
    InstalledPackage,
    Inventory,
    InventoryError,
    LooseExecutable,
    PackageKind,
    UnreadPart,
    name_text,
)
from profiles.inventory.node_reader import is_package_json, read_node_package
from profiles.inventory.python_reader import is_python_metadata, python_files, read_python_package
from profiles.inventory.rpm_reader import read_rpm
from profiles.inventory.system_reader import read_system
from profiles.walk import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from profiles.inventory.model import ImageOrigin
    from profiles.walk import Folder, TreeEntry

MAX_IMAGE_ENTRIES = 20_000_000
MAX_EXECUTABLES = 100_000
MAX_UNREAD = 10_000
MAX_LANGUAGE_PACKAGES = 100_000
"""Python and npm packages. Their metadata files are small, and a stranger may have made any number."""
NEVER_PACKED = frozenset({b"dev", b"proc", b"sys", b"tmp"})
"""Folders whose content is in no image."""
PACKAGE_PROGRAMS = ("usr/bin/dpkg", "bin/dpkg", "usr/bin/rpm", "sbin/apk", "usr/sbin/apk", "usr/bin/apk")


def collect_inventory(tree: Path, origin: ImageOrigin, features: Iterable[InstalledPackage] = ()) -> Inventory:
    """Return the inventory of the image in the folder `tree`. InventoryError if it would not be complete.

    `features` are those that were installed over the base; nothing else in the tree says so.
    """
    with ImageTreeReader(tree) as reader:
        packages, files = _distribution_packages(reader)
        sight = _survey(reader)
        owned = _owned_paths(reader, files, sight)
        unread = list[UnreadPart]()
        packages += _language_packages(sight.python, read_python_package, owned, unread)
        packages += _language_packages(sight.node, read_node_package, owned, unread)
        for entry in sight.python:
            owned.update(path for path in python_files(entry) if path in sight.executables)
        npm_folders = {entry.folder for entry in sight.node}
        loose = tuple(_loose_executables(sight, owned, npm_folders))
        packages += [*_features_of_base(reader), *features]
        return Inventory(
            origin, read_system(reader), tuple(merge_copies(packages)), tuple(sorted(loose)), tuple(sorted(unread))
        )


def _features_of_base(reader: ImageTreeReader) -> list[InstalledPackage]:
    """Return the features in the inventory that the base has; none for one that is damaged, or a stranger's."""
    try:
        content = reader.read(f"{INVENTORY_PLACE}/{CYCLONEDX_NAME}", MAX_SBOM_BYTES)
        packages = parse_inventory(json.loads(content)).packages if content else ()
    except (InventoryError, *UNREADABLE):
        return []
    return [each for each in packages if each.kind is PackageKind.FEATURE]


@dataclass(slots=True)
class _Sight:
    """The entries of the tree that matter."""

    python: list[TreeEntry] = field(default_factory=list)
    node: list[TreeEntry] = field(default_factory=list)
    executables: dict[bytes, TreeEntry] = field(default_factory=dict)
    """Regular files with a permission to execute, by their paths."""


def _survey(reader: ImageTreeReader) -> _Sight:
    sight = _Sight()
    try:
        for number, entry in enumerate(walk(reader.tree.root, is_steady=True)):
            if number >= MAX_IMAGE_ENTRIES:
                raise InventoryError(f"the image has more than {MAX_IMAGE_ENTRIES} files")
            if not stat.S_ISREG(entry.status.st_mode) or _is_below(entry.folder, NEVER_PACKED):
                continue
            if is_python_metadata(entry):
                sight.python.append(entry)
            elif is_package_json(entry):
                sight.node.append(entry)
            if entry.status.st_mode & 0o111:
                sight.executables[entry.path] = entry
            if len(sight.python) + len(sight.node) > MAX_LANGUAGE_PACKAGES:
                raise InventoryError(f"the image has more than {MAX_LANGUAGE_PACKAGES} Python and npm packages")
    except OSError as error:
        place = name_text(os.fsencode(error.filename or ""))
        raise InventoryError(f"/{place} of the image cannot be read: {error.strerror}") from error
    return sight


def _is_below(folder: Folder, names: frozenset[bytes]) -> bool:
    """Whether a folder is one of these folders of the root, or in one."""
    while folder.parent is not None and folder.parent.parent is not None:
        folder = folder.parent
    return folder.name in names


def _distribution_packages(reader: ImageTreeReader) -> tuple[list[InstalledPackage], list[bytes]]:
    """Return the packages of the distribution, and the files of those of apk and rpm."""
    apk, apk_files = read_apk(reader)
    rpm, rpm_files = read_rpm(reader)
    packages = [*read_dpkg(reader), *apk, *rpm]
    if not packages and (program := next(filter(reader.status, PACKAGE_PROGRAMS), None)):
        raise InventoryError(f"the image has /{program}, and no list of its packages", hint=DATABASE_REMEDY)
    return packages, apk_files + rpm_files


def _owned_paths(reader: ImageTreeReader, files: list[bytes], sight: _Sight) -> set[bytes]:
    """Return which of the entries belong to packages of the distribution."""
    wanted = {*sight.executables, *(entry.path for entry in (*sight.python, *sight.node))}
    moved = _moved_folders(reader)

    def real_path(path: bytes) -> bytes:
        first, slash, rest = path.partition(b"/")
        return b"/".join((moved[first], rest)) if slash and first in moved else path

    found: Iterable[bytes] = (real_path(path) for paths in (dpkg_files(reader), files) for path in paths)
    return wanted.intersection(found)


def _moved_folders(reader: ImageTreeReader) -> dict[bytes, bytes]:
    """Return where the folders of the root are that are links, as `bin` is one to `usr/bin`."""
    moved = {}
    for name in reader.names(""):
        status = reader.status(name.decode("utf-8", "surrogateescape"))
        if status is not None and stat.S_ISLNK(status.st_mode):
            moved[name] = os.readlink(name, dir_fd=reader.tree.root_descriptor).strip(b"/")
    return moved


def _language_packages(
    entries: list[TreeEntry],
    read: Callable[[TreeEntry], InstalledPackage | str],
    owned: set[bytes],
    unread: list[UnreadPart],
) -> Iterator[InstalledPackage]:
    """Yield the packages of metadata files, without those that are in a package of the distribution."""
    for entry in entries:
        if entry.path in owned:
            continue
        package = read(entry)
        if isinstance(package, InstalledPackage):
            yield package
        elif len(unread) < MAX_UNREAD:
            unread.append(UnreadPart("/" + name_text(entry.path), package))
        else:
            raise InventoryError(f"the image has more than {MAX_UNREAD} damaged packages")


def _loose_executables(sight: _Sight, owned: set[bytes], npm_folders: set[Folder]) -> Iterator[LooseExecutable]:
    number = 0
    for path, entry in sight.executables.items():
        if path in owned or _is_in_any(entry.folder, npm_folders):
            continue
        start = start_of(entry.folder, entry.name, 4)
        if start == b"\x7fELF" or start.startswith(b"#!"):
            number += 1
            if number > MAX_EXECUTABLES:
                raise InventoryError(f"the image has more than {MAX_EXECUTABLES} executables that no package owns")
            yield LooseExecutable("/" + name_text(path), entry.status.st_size, digest_in(entry.folder, entry.name))


def _is_in_any(folder: Folder | None, folders: set[Folder]) -> bool:
    while folder is not None and folder not in folders:
        folder = folder.parent
    return folder is not None


def merge_copies(packages: Iterable[InstalledPackage]) -> list[InstalledPackage]:
    """Return packages sorted, and those that differ in their places only as one."""
    found: dict[InstalledPackage, set[str]] = {}
    for package in packages:
        found.setdefault(replace(package, locations=()), set()).update(package.locations)
    return sorted(replace(package, locations=tuple(sorted(places))) for package, places in found.items())
