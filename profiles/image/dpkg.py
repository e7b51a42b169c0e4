"""Read the records of dpkg and apt in a tree: packages, how each was chosen, and its files.

The files of dpkg are described in deb822(5), deb-md5sums(5) and dpkg's admindir (`/var/lib/dpkg/info`), apt's in
`/var/lib/apt/extended_states`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

STATUS = "var/lib/dpkg/status"
INFO = "var/lib/dpkg/info"
EXTENDED_STATES = "var/lib/apt/extended_states"

_FIELD = re.compile(r"^(Package|Version|Architecture|Status|Auto-Installed): *(.*)$", re.MULTILINE)
_CONFFILE = re.compile(r"^ (/.*) ([0-9a-f]{32})(?: obsolete| remove-on-upgrade)*$", re.MULTILINE)

TextReader = Callable[[str], str | None]
"""Returns the text of the file at a relative path, None if there is none."""


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package."""

    name: str
    version: str
    architecture: str
    conffiles: dict[str, str] = field(default_factory=dict)
    """MD5 of its configuration files as it has them, by path without a leading slash."""


def read_packages(read: TextReader) -> dict[str, Package]:
    """Return the packages that dpkg lists as installed, by name."""
    found = {}
    for paragraph in (read(STATUS) or "").split("\n\n"):
        fields = dict(_FIELD.findall(paragraph))
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            conffiles = {path.lstrip("/"): md5 for path, md5 in _CONFFILE.findall(paragraph)}
            package = Package(fields["Package"], fields.get("Version", ""), fields.get("Architecture", ""), conffiles)
            found[package.name] = package
    return found


def automatic_packages(read: TextReader) -> set[str]:
    """Return the packages that apt installed as dependencies of others."""
    found = set()
    for paragraph in (read(EXTENDED_STATES) or "").split("\n\n"):
        fields = dict(_FIELD.findall(paragraph))
        if fields.get("Auto-Installed") == "1" and "Package" in fields:
            found.add(fields["Package"])
    return found


def packaged_files(read: TextReader, packages: Iterable[Package], real: Callable[[str], str]) -> dict[str, str]:
    """Map the relative paths of these packages to the MD5 of each file in its package; empty if there is none.

    `real` turns a path into the one where the file is: `bin/x` into `usr/bin/x` where /bin is a link.
    """
    found: dict[str, str] = {}
    for package in packages:
        for stem in (package.name, f"{package.name}:{package.architecture}"):
            for line in (read(f"{INFO}/{stem}.list") or "").split("\n"):
                if line not in {"", "/."}:
                    found.setdefault(real(line.removeprefix("/")), "")
            for line in filter(None, (read(f"{INFO}/{stem}.md5sums") or "").split("\n")):
                md5, _, path = line.partition("  ")
                found[real(path)] = md5
        found.update({real(path): md5 for path, md5 in package.conffiles.items()})
    return found
