"""Read dpkg's packages, with their source packages, and the files that they own.

deb822(5) has the form of `/var/lib/dpkg/status`. Images without dpkg itself ("distroless") have a file for each package
in `/var/lib/dpkg/status.d`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from profiles.inventory.model import DATABASE_REMEDY, InstalledPackage, InventoryError, PackageKind, name_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.inventory.image_tree_reader import ImageTreeReader

ADMINISTRATION = "var/lib/dpkg"
DPKG_STATUS = f"{ADMINISTRATION}/status"
MAX_STATUS_BYTES = 64 << 20
"""Of a Debian with 3,000 packages it has 4 MB."""
MAX_OWNED_FILES_BYTES = 64 << 20
"""Of the list of one package's files: those of 100,000 files have 8 MB."""
MAX_PACKAGES = 100_000
"""Debian has 70,000 packages in all."""
MAINTAINER_SCRIPTS = (b".config", b".preinst", b".postinst", b".prerm", b".postrm")
"""Executables of a package in dpkg's own folder, which no list of files has."""

_FIELD = re.compile(r"^(Package|Version|Architecture|Status|Source): *(.*?) *$", re.MULTILINE)
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9+.-]{0,200}")
_VERSION = re.compile(r"[0-9A-Za-z.+:~-]{1,200}")
_SOURCE = re.compile(r"(\S+)(?: \((\S+)\))?")


def read_dpkg(reader: ImageTreeReader) -> list[InstalledPackage]:
    """Return the installed packages. InventoryError if packages have files and the list lacks them."""
    single = [name for name in reader.names(f"{ADMINISTRATION}/status.d") if not name.endswith(b".md5sums")]
    text = reader.text(DPKG_STATUS, MAX_STATUS_BYTES)
    listed = _listed_packages(reader)
    if not single and text is None:
        if listed:
            raise InventoryError(f"the image has dpkg, and /{DPKG_STATUS} is missing", hint=DATABASE_REMEDY)
        return []
    known: set[str] = set()
    found = list(_packages(text or "", f"/{DPKG_STATUS}", known))
    if lost := sorted(listed - known):
        raise InventoryError(
            f"/{DPKG_STATUS} of the image is damaged: it lacks {lost[0]}, whose files are installed"
            + (f", and {len(lost) - 1} other packages" if len(lost) > 1 else ""),
            hint=DATABASE_REMEDY,
        )
    for name in single:
        text_of_one = reader.text(f"{ADMINISTRATION}/status.d/{os.fsdecode(name)}", MAX_STATUS_BYTES) or ""
        found += _packages(text_of_one, f"/{ADMINISTRATION}/status.d/{name_text(name)}", known, default="installed")
    if not found and (text is None or not known):
        raise InventoryError(f"/{DPKG_STATUS} of the image lists no package", hint=DATABASE_REMEDY)
    return found


def _listed_packages(reader: ImageTreeReader) -> set[str]:
    """Return the packages of which dpkg has a list of files."""
    names = (name_text(name) for name in reader.names(f"{ADMINISTRATION}/info") if name.endswith(b".list"))
    return {name.removesuffix(".list").partition(":")[0] for name in names}


def _packages(text: str, place: str, known: set[str], default: str = "") -> Iterator[InstalledPackage]:
    """Yield the packages of a text that are installed, and add all of its packages to `known`."""
    for paragraph in re.split(r"\n{2,}", text.strip("\n")):
        if not paragraph:
            continue
        fields = dict(_FIELD.findall(paragraph))
        name, version = fields.get("Package", ""), fields.get("Version", "")
        if not _NAME.fullmatch(name):
            raise InventoryError(f"{place} of the image is damaged: a package has no valid name", hint=DATABASE_REMEDY)
        known.add(name)
        if len(known) > MAX_PACKAGES:
            raise InventoryError(f"{place} of the image has more than {MAX_PACKAGES} packages")
        if fields.get("Status", default).split(" ")[-1] not in {"installed", "triggers-pending", "triggers-awaited"}:
            continue
        architecture = fields.get("Architecture", "")
        source, source_version = _source(fields.get("Source", ""), name, version)
        valid = (_VERSION.fullmatch(version), _VERSION.fullmatch(source_version), _NAME.fullmatch(source))
        if not all(valid) or not re.fullmatch("[a-z0-9-]{0,40}", architecture):
            raise InventoryError(
                f"{place} of the image is damaged: {name} has no valid version or source", hint=DATABASE_REMEDY
            )
        yield InstalledPackage(PackageKind.DEB, name, version, architecture, source, source_version)


def _source(field: str, name: str, version: str) -> tuple[str, str]:
    """Return name and version of the source package; they are named only if they differ from the package's own."""
    match = _SOURCE.fullmatch(field)
    return (match[1], match[2] or version) if match else (field or name, version)


def dpkg_files(reader: ImageTreeReader) -> Iterator[bytes]:
    """Yield the paths of all packages' files, without leading slashes."""
    for name in reader.names(f"{ADMINISTRATION}/info"):
        if name.endswith(b".list"):
            yield from (line.lstrip(b"/") for line in _lines(reader, f"info/{os.fsdecode(name)}"))
            stem = f"{ADMINISTRATION}/info/".encode() + name.removesuffix(b".list")
            yield from (stem + suffix for suffix in MAINTAINER_SCRIPTS)
    for name in reader.names(f"{ADMINISTRATION}/status.d"):
        if name.endswith(b".md5sums"):
            lines = _lines(reader, f"status.d/{os.fsdecode(name)}")
            yield from (line.partition(b"  ")[2].lstrip(b"/") for line in lines)
    moved = _lines(reader, "diversions")
    yield from (path.lstrip(b"/") for path in moved[1::3])  # the file, its present place, and who has moved it


def _lines(reader: ImageTreeReader, place: str) -> list[bytes]:
    return (reader.read(f"{ADMINISTRATION}/{place}", MAX_OWNED_FILES_BYTES) or b"").split(b"\n")
