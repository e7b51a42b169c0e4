"""The order of versions of each package manager.

`order_of(kind)` returns the function that makes a sort key of a version. It raises UncomparableVersionError for a text
that is no version of that kind. Sources: Debian Policy 5.6.12; PEP 440; semver.org 2.0.0, 11; apk-package(5).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from profiles.inventory.model import PackageKind
from profiles.recipe.versions import version_sort_key

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_VERSION_LENGTH = 256
_MAX_DIGITS = 40
"""Digits of a number in a version: dates have 14, hashes as numbers 20."""
_LONG_NUMBER = re.compile(rf"[0-9]{{{_MAX_DIGITS + 1},}}")
_DPKG = re.compile(r"(?:([0-9]+):)?((?(1)[0-9A-Za-z.+:~-]|[0-9A-Za-z.+~-])+?)(?:-([0-9A-Za-z.+~]*))?")
_PEP440 = re.compile(
    r"v?(?:(?P<epoch>[0-9]+)!)?(?P<release>[0-9]+(?:\.[0-9]+)*)"
    r"(?:[-_.]?(?P<pre>a|b|c|rc|alpha|beta|pre|preview)[-_.]?(?P<pre_n>[0-9]*))?"
    r"(?P<post>-(?P<post_n1>[0-9]+)|[-_.]?(?:post|rev|r)[-_.]?(?P<post_n2>[0-9]*))?"
    r"(?P<dev>[-_.]?dev[-_.]?(?P<dev_n>[0-9]*))?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?"
)
_PRE = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc"}
_SEMVER = re.compile(r"v?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]*)?")
_APK = re.compile(
    r"([0-9]+(?:\.[0-9]+)*)([a-z]?)((?:_(?:alpha|beta|pre|rc|cvs|svn|git|hg|p)[0-9]*)*)(?:~[0-9a-f]+)?(?:-r([0-9]+))?"
)
_APK_SUFFIXES = {"alpha": -4, "beta": -3, "pre": -2, "rc": -1, "cvs": 1, "svn": 2, "git": 3, "hg": 4, "p": 5}

SortKey = tuple[Any, ...]
"""Comparable with the keys of the same order only."""


class UncomparableVersionError(ValueError):
    """A text that is no version of its package manager."""


def order_of(kind: PackageKind) -> Callable[[str], SortKey] | None:
    """Return the function that makes sort keys; None for rpm, whose packages are not compared."""
    orders = {
        PackageKind.DEB: dpkg_key,
        PackageKind.APK: apk_key,
        PackageKind.PYPI: python_key,
        PackageKind.NPM: semver_key,
    }
    return orders.get(kind)


def dpkg_key(version: str) -> SortKey:
    """As `dpkg --compare-versions` orders: epoch, upstream version, Debian revision."""
    epoch, upstream, revision = _match(_DPKG, version).groups()
    return (int(epoch or 0), version_sort_key(upstream or "0"), version_sort_key(revision or "0"))


def python_key(version: str) -> SortKey:
    """As PEP 440 orders, local versions included."""
    match = _match(_PEP440, version.lower())
    release = tuple(int(number) for number in match["release"].split("."))
    while release and release[-1] == 0:
        release = release[:-1]
    first, last = (-1,), (1,)
    pre: SortKey = (0, _PRE.get(match["pre"], match["pre"]), int(match["pre_n"] or 0)) if match["pre"] else last
    if not match["pre"] and not match["post"] and match["dev"]:
        pre = first  # 1.0.dev1 comes before 1.0a1
    post: SortKey = (0, int(match["post_n1"] or match["post_n2"] or 0)) if match["post"] else first
    dev: SortKey = (0, int(match["dev_n"] or 0)) if match["dev"] else last
    parts = re.split(r"[-_.]", match["local"]) if match["local"] else []
    local: SortKey = (0, *((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts))
    return (int(match["epoch"] or 0), release, pre, post, dev, local if parts else first)


def semver_key(version: str) -> SortKey:
    """As Semantic Versioning orders: a pre-release comes before its version, and builds are equal."""
    major, minor, patch, pre = _match(_SEMVER, version).groups()
    parts = pre.split(".") if pre else []
    named: SortKey = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
    return (int(major), int(minor or 0), int(patch or 0), 0 if parts else 1, named)


def apk_key(version: str) -> SortKey:
    """As apk orders: numbers, a letter, suffixes such as `_rc1`, and the revision of the package."""
    numbers, letter, suffixes, revision = _match(_APK, version).groups()
    first, *rest = numbers.split(".")
    ranks = tuple(
        (_APK_SUFFIXES[name], int(number or 0)) for name, number in re.findall(r"_([a-z]+)([0-9]*)", suffixes)
    )
    # A part that begins with a zero is a fraction: 1.01 comes before 1.1.
    parts = tuple((0, 0, part.rstrip("0")) if part.startswith("0") else (1, int(part), "") for part in rest)
    return (int(first), parts, letter, (*ranks, (0, 0)), int(revision or 0))


def _match(pattern: re.Pattern[str], version: str) -> re.Match[str]:
    match = None
    if len(version) <= MAX_VERSION_LENGTH and not _LONG_NUMBER.search(version):
        match = pattern.fullmatch(version)
    if match is None:
        raise UncomparableVersionError(f"{version[:80]!r} is no version")
    return match
