"""A known vulnerability of a package in an image, and what can be done about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from profiles.errors import ProfilesError

if TYPE_CHECKING:
    from profiles.inventory.model import PackageKind
    from profiles.vulnerabilities.severity import Severity


class VulnerabilityDataError(ProfilesError):
    """The files of the site are missing, damaged or of another form."""


class FindingAnswer(StrEnum):
    """The four answers to a finding."""

    FIXED = "fixed"
    """A later version of the package is not affected."""
    NO_FIX = "no-fix"
    IGNORED = "ignored"
    """The distribution has decided not to fix it."""
    UNKNOWN_SUITE = "unknown-suite"
    """The data say nothing about the image's release of its distribution."""


@dataclass(frozen=True, slots=True)
class AffectedPackage:
    """A package as databases know it: of a distribution the source package, else the package itself."""

    kind: PackageKind
    name: str
    version: str
    installed: tuple[str, ...]
    """The names of the installed packages that are made from it."""


@dataclass(frozen=True, slots=True)
class VulnerabilityFinding:
    """A vulnerability that a package may have."""

    package: AffectedPackage
    id: str
    """Its CVE number, if it has one."""
    aliases: frozenset[str]
    """Its other identifiers."""
    answer: FindingAnswer
    severity: Severity
    summary: str
    fixed: str = ""
    """The version that fixes it."""
    muted: str = ""
    """The reason of a VEX statement that it does not concern the image; empty if it is not muted."""
