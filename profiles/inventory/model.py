"""The inventory of an image: what is installed in it, and the executables that no package owns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from profiles.errors import ProfilesError


class InventoryError(ProfilesError):
    """An image whose inventory cannot be made: a package database is missing, damaged or too large."""


CYCLONEDX_NAME = "sbom.cdx.json"
SPDX_NAME = "sbom.spdx.json"
INVENTORY_PLACE = "usr/share/berth"
"""The folder of both documents in the image."""
DATABASE_REMEDY = "give the image its package database back: without it, its packages are unknown"


class PackageKind(StrEnum):
    """The kinds of packages that an inventory has; those of package managers by their names in package URLs."""

    DEB = "deb"
    RPM = "rpm"
    APK = "apk"
    PYPI = "pypi"
    NPM = "npm"
    FEATURE = "feature"
    """A feature of a dev container, which no package manager has installed."""


DISTRIBUTION_KINDS = {PackageKind.DEB, PackageKind.RPM, PackageKind.APK}
"""Package managers whose packages belong to the distribution, and own files all over the image."""


@dataclass(frozen=True, slots=True, order=True)
class InstalledPackage:
    """One installed package."""

    kind: PackageKind
    name: str
    """For Python the normalised name (PEP 503)."""
    version: str
    architecture: str = ""
    source: str = ""
    """The name of the source package; empty for Python and npm."""
    source_version: str = ""
    locations: tuple[str, ...] = ()
    """Absolute paths of a Python or npm package, of which an image may have several copies."""
    digest: str = ""
    """`sha256:…` of a feature: of its manifest in the registry, or of the files of a local one."""


@dataclass(frozen=True, slots=True, order=True)
class LooseExecutable:
    """An executable that no package owns."""

    path: str
    """Absolute; control characters and bytes that are no UTF-8 are written as `\\xNN`."""
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""


@dataclass(frozen=True, slots=True, order=True)
class UnreadPart:
    """Something that looks like a package and has no valid name or version."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class OperatingSystem:
    """The image's distribution, from os-release(5); empty texts for an image without this file."""

    id: str = ""
    version: str = ""
    suite: str = ""
    """The codename of the release, such as `trixie` or `sid`."""


@dataclass(frozen=True, slots=True)
class ImageOrigin:
    """The image that an inventory describes."""

    name: str
    version: str
    base: str
    base_digest: str
    """`sha256:…` of the base's SIF file; empty if the base is none."""
    created: str
    """UTC, as `2026-12-01T09:00:00Z`."""
    builder: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """All of it, each part sorted."""

    origin: ImageOrigin
    system: OperatingSystem
    packages: tuple[InstalledPackage, ...]
    executables: tuple[LooseExecutable, ...]
    unread: tuple[UnreadPart, ...] = ()

    def counts(self) -> dict[str, int]:
        """Return the number of packages of each kind that the image has."""
        numbers = {kind.value: sum(each.kind is kind for each in self.packages) for kind in PackageKind}
        return {kind: number for kind, number in numbers.items() if number}


def recorded_counts(value: object) -> dict[str, int] | None:
    """Return the counts that an image's description has, None for None. ValueError for anything else."""
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(number, int) for number in value.values()):
        raise ValueError("no numbers of packages")
    return {PackageKind(kind).value: number for kind, number in value.items()}


def name_text(raw: bytes) -> str:
    r"""Return a file's name as text that is safe to print: printable characters but `\`, and all others as `\xNN`."""
    text = raw.decode("utf-8", "surrogateescape")
    return "".join(char if char.isprintable() and char != "\\" else _escape(char) for char in text)


def _escape(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
