"""Which Debian and Python packages a stack of system layers has, over those of its image."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from profiles import dpkg
from profiles.overlay import is_whiteout
from profiles.userfile import read_text

if TYPE_CHECKING:
    from pathlib import Path

STATUS_BYTES = 64 * 2**20
"""Limit for dpkg's list of packages: 20,000 packages take 25 MB."""

DIST_INFO = re.compile(r"([A-Za-z0-9._]+)-([^-/]+)\.dist-info")

Packages = dict[str, str]
"""Version by name; Python packages are named `pip NAME`."""


def of_image(text: str) -> Packages:
    """The packages that an image's packages.txt lists: lines of kind, name, version."""
    found: Packages = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind in {"apt", "rpm"}:
            name, _, version = rest.partition(" ")
            found[name.partition(":")[0]] = version
        elif kind == "pip":
            name, _, version = rest.partition("==")
            found[f"pip {_normal(name)}"] = version
    return found


def installed(trees: list[Path], image_packages: str) -> Packages:
    """What is installed where these layers, oldest first, lie over the image."""
    found = of_image(image_packages)
    for tree in trees:
        file = tree / dpkg.STATUS
        if not _leads_by_links(tree, file) and (status := _text(file)) is not None:
            kept = {name: version for name, version in found.items() if name.startswith("pip ")}
            listed = dpkg.installed({dpkg.STATUS: status}.get).values()
            found = kept | {each.name: each.version for each in listed}
        for folder in tree.glob("opt/venv/lib/python3*/site-packages/*.dist-info"):
            match = DIST_INFO.fullmatch(folder.name)
            if match is None or _leads_by_links(tree, folder):
                continue
            name = f"pip {_normal(match[1])}"
            if folder.is_dir():
                found[name] = match[2]
            elif found.get(name) == match[2]:  # overlayfs' mark of its deletion
                del found[name]
    return found


def package_changes(before: Packages, after: Packages) -> list[dict[str, str]]:
    """What has come, gone, or another version, by name."""
    return [
        {"name": name, "before": before.get(name, ""), "after": after.get(name, "")}
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _leads_by_links(tree: Path, place: Path) -> bool:
    """Whether a link is on the way from a layer's tree to a place in it: it would lead out of the tree."""
    steps = [place, *place.parents]
    return any(step.is_symlink() for step in steps[: steps.index(tree)])


def _text(path: Path) -> str | None:
    """Return a file of a layer, which may be of any account of the session; None if it is not there or deleted."""
    try:
        return None if is_whiteout(path.lstat()) else read_text(path, STATUS_BYTES, own=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
