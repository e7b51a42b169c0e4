"""List the Debian and Python packages in a stack of system layers, compared with its image."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.image import dpkg
from profiles.image.overlayfs import EntryKind
from profiles.userfile import read_text

if TYPE_CHECKING:
    from profiles.image.overlayfs import LayerEntry, MergedFolder, OpenStack

STATUS_BYTES = 64 * 2**20
"""Limit for dpkg's list of packages: 20,000 packages take 25 MB."""

DIST_INFO = re.compile(r"([A-Za-z0-9._]+)-([^-/]+)\.dist-info")

Packages = dict[str, str]
"""Version by name; Python packages are named `pip NAME`."""


def image_packages(text: str) -> Packages:
    """Return the packages of an image's packages.txt: lines of kind, name, version."""
    found: Packages = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind in {"apt", "rpm"}:
            name, _, version = rest.partition(" ")
            found[name.partition(":")[0]] = version
        elif kind == "pip":
            name, _, version = rest.partition("==")
            found[f"pip {_normalize(name)}"] = version
    return found


def installed_packages(stack: OpenStack, image_text: str) -> Packages:
    """Return the packages that are installed where these layers lie over the image."""
    found = image_packages(image_text)
    is_hidden, status = _read_text(stack, os.fsencode(dpkg.STATUS).split(b"/"))
    if is_hidden:
        found = {name: version for name, version in found.items() if name.startswith("pip ")}
        found |= {each.name: each.version for each in dpkg.read_packages({dpkg.STATUS: status}.get).values()}
    lib = _find_folder(stack, [b"opt", b"venv", b"lib"])
    if lib is None:
        return found
    if lib.hides:  # the image's environment is gone
        found = {name: version for name, version in found.items() if not name.startswith("pip ")}
    for python in sorted(each for each in lib.names() if each.startswith(b"python3")):
        folder = lib.inside(python).inside(b"site-packages")
        seen = [each for name in folder.names() if (each := folder.find(name)) is not None]
        gone = dict(pair for each in seen if each.kind is EntryKind.WHITEOUT for pair in _distribution(each))
        found = {name: version for name, version in found.items() if gone.get(name) != version}
        found |= dict(pair for each in seen if each.kind is EntryKind.DIRECTORY for pair in _distribution(each))
    return found


def package_changes(before: Packages, after: Packages) -> list[dict[str, str]]:
    """Return the packages that were added, removed or changed to another version, by name."""
    return [
        {"name": name, "before": before.get(name, ""), "after": after.get(name, "")}
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def read_stack_text(stack: OpenStack, path: list[bytes]) -> str:
    """Return the text of a file in these layers; empty if they do not have it."""
    return _read_text(stack, path)[1]


def _read_text(stack: OpenStack, path: list[bytes]) -> tuple[bool, str]:
    """Return whether the layers contain or hide a file, and its text: empty if it is absent or deleted.

    A file of a layer may belong to any account of the session. No link is followed: it would lead out of the layers.
    """
    folder = _find_folder(stack, path[:-1])
    found = folder.find(path[-1]) if folder is not None else None
    if folder is None or (found is not None and found.kind not in {EntryKind.FILE, EntryKind.WHITEOUT}):
        return False, ""
    if found is None or found.kind is EntryKind.WHITEOUT:
        return folder.hides or found is not None, ""
    try:
        return True, read_text(Path(os.fsdecode(found.folder.tree.path), found.path), STATUS_BYTES, own=False)
    except FileNotFoundError:
        return True, ""


def _find_folder(stack: OpenStack, path: list[bytes]) -> MergedFolder | None:
    """Return a folder, as a merged one; None if a link or a file is in its place or on the way to it."""
    folder = stack.root
    for name in path:
        found = folder.find(name)
        if found is not None and found.kind not in {EntryKind.DIRECTORY, EntryKind.WHITEOUT}:
            return None
        folder = folder.inside(name)
    return folder


def _distribution(found: LayerEntry) -> list[tuple[str, str]]:
    """Return the name and version of a Python package if this folder has its description."""
    match = DIST_INFO.fullmatch(os.fsdecode(found.name))
    return [(f"pip {_normalize(match[1])}", match[2])] if match else []


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
