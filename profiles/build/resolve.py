"""The packages that a build of a recipe would install today: asked of apt and pip, and nothing is installed.

An automatic rebuild compares them with those of the published image. What comes from a container image or from a
Dockerfile is not resolved here: the digest of that base stands for it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.build.tree import ImageTree
from profiles.errors import BuildError
from profiles.image.store import Image
from profiles.inventory.model import PackageKind
from profiles.recipe.base import BaseKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiles.build.bases import FoundBase
    from profiles.build.command import ProgramRunner
    from profiles.inventory.model import Inventory
    from profiles.recipe.spec import Profile

_INSTALLS = re.compile(r"^Inst (\S+) (?:\[[^\]]*\] )?\((\S+)", re.MULTILINE)
"""A line of `apt-get --simulate`: the name, the installed version if there is one, and the new version."""
_NORMAL = re.compile(r"[-_.]+")
MAX_REPORT_BYTES = 64 << 20


def resolve_packages(
    profile: Profile, base: FoundBase, published: Image, session: Sequence[str], *, folder: Path, run: ProgramRunner
) -> list[str]:
    """Return lines `KIND NAME VERSION`, sorted, of what a build installs beside what its base has.

    `published` is an image of the recipe; pip is asked in its tree, with the Python that a build has. `session` are the
    packages that every session needs. `folder` is private, empty and on a local disk. Raises BuildError and what `run`
    raises.
    """
    lines: set[str] = set()
    of_base = ImageTree(_room(folder, "base"), run)
    wanted = [*session, *profile.apt]
    kind = profile.base.kind
    has_tree = kind in {BaseKind.PROFILE, BaseKind.SIF}
    if kind is BaseKind.DEBIAN:
        said = of_base.simulate_debian(profile.base.suite, wanted)
        lines |= _debian_lines(said)
    elif has_tree:
        assert isinstance(base, Path | Image), "such a base is a file"
        of_base.unpack(base.path if isinstance(base, Image) else base)
        lines |= _debian_lines(of_base.simulate(wanted, missing_only=True))
    if not profile.pip and (kind is BaseKind.DEBIAN or has_tree):
        return sorted(lines)
    if has_tree and os.path.lexists(of_base.path / "opt/venv/bin/pip"):
        return sorted(lines | _python_lines(of_base.simulate_pip(profile.pip, fresh=False)))
    of_image = ImageTree(_room(folder, "image"), run)
    of_image.unpack(published.path)
    if kind is not BaseKind.DEBIAN and not has_tree:
        lines |= _debian_lines(of_image.simulate(wanted, missing_only=False))
    if profile.pip:
        lines |= _python_lines(of_image.simulate_pip(profile.pip, fresh=True))
    return sorted(lines)


def installed_lines(resolved: Sequence[str], inventory: Inventory) -> list[str]:
    """Return the lines of the same packages with the versions that an image has; without those that it lacks."""
    versions: dict[tuple[str, str], list[str]] = {}
    for package in inventory.packages:
        versions.setdefault((package.kind.value, package.name), []).append(package.version)
    found = []
    for line in resolved:
        kind, name, version = line.split(" ")
        there = versions.get((kind, name.partition(":")[0]), [])
        if there:
            found.append(f"{kind} {name} {version if version in there else min(there)}")
    return sorted(found)


def _debian_lines(said: str) -> set[str]:
    return {f"{PackageKind.DEB.value} {name} {version}" for name, version in _INSTALLS.findall(said)}


def _python_lines(report: str) -> set[str]:
    """Read pip's installation report, https://pip.pypa.io/en/stable/reference/installation-report/."""
    try:
        found: list[dict[str, Any]] = json.loads(report)["install"]
        packages = [(str(each["metadata"]["name"]), str(each["metadata"]["version"])) for each in found]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise BuildError(
            "pip did not say what it would install", step="resolve", hint="is the pip of the image 22.2 or newer?"
        ) from error
    if any(" " in part or not part for package in packages for part in package):
        raise BuildError("pip names a package without a valid name or version", step="resolve")
    kind = PackageKind.PYPI.value
    return {f"{kind} {_NORMAL.sub('-', name).lower()} {version}" for name, version in packages}


def _room(folder: Path, name: str) -> Path:
    room = folder / name
    room.mkdir(mode=0o700)
    return room
