"""Published images that are real SIF files with a small squashfs, made without a build."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from profiles.image.store import DESCRIPTION, IMAGE, PACKAGES, RECIPE, Image, Store, file_digest
from profiles.recipe.spec import load_profile
from tests.fakes.sif import SQUASHFS_OFFSET, sif_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SMALL_RECIPE = """\
name: small
version: {version}
description: A small image
base: debian:sid
environment: {{WHERE: here}}
resources: {{time: "1:00:00", mem: 2G}}
persistence: {{system: fresh}}
"""
SMALL_PACKAGES = "apt hello 2.10-3\n"
SESSION_FILES = {
    "usr/sbin/sshd": "#!/bin/sh\n",
    "usr/bin/bash": "#!/bin/sh\n",
    ".singularity.d/env/90-environment.sh": "export WHERE='here'\n",
}
"""What a session needs at least, by its looks."""


def write_small_sif(
    sif: Path, folder: Path, files: Mapping[str, str], filling: int = 0, fill: Callable[[], None] = lambda: None
) -> None:
    """Make a SIF of these files, of what `fill` adds to `tree`, and of `filling` bytes that cannot be compressed."""
    tree = folder / "tree"
    for name, text in {"dev/.keep": "", **files}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    if filling:
        (tree / "filling").write_bytes(os.urandom(filling))
    fill()
    squashfs = folder / "tree.squashfs"
    packing = ["mksquashfs", str(tree), str(squashfs), "-quiet", "-no-progress", "-noappend"]
    subprocess.run(packing, check=True, capture_output=True, timeout=60)
    sif.write_bytes(sif_bytes(offset=SQUASHFS_OFFSET).ljust(SQUASHFS_OFFSET, b"\0") + squashfs.read_bytes())


def publish_small_image(
    store: Store,
    folder: Path,
    version: str = "1",
    *,
    filling: int = 0,
    files: Mapping[str, str] = SESSION_FILES,
    fill: Callable[[], None] = lambda: None,
) -> Image:
    """Publish `small@<version>`. `folder` must not exist."""
    folder.mkdir()
    stage = store.stage("small", version)
    sif = stage / IMAGE
    write_small_sif(sif, folder, files, filling, fill)
    (stage / RECIPE).write_text(SMALL_RECIPE.format(version=version))
    (stage / PACKAGES).write_text(SMALL_PACKAGES)
    profile = load_profile(stage / RECIPE)
    labels = {"berth.profile": "small", "berth.version": version}
    size = sif.stat().st_size
    image = Image("small", version, sif, file_digest(sif), size, 1.0e9, labels, profile, SQUASHFS_OFFSET)
    (stage / DESCRIPTION).write_text(json.dumps(image.description()))
    return store.publish(stage, "small", version)


def add_shell(tree: Path) -> None:
    """Add a shell and env(1) of this machine, with the libraries that they need: enough to run a script."""
    for program in ("/bin/sh", "/usr/bin/env", "/bin/bash"):
        listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True, timeout=60).stdout
        for name in (program, *(word for word in listed.split() if word.startswith("/"))):
            place = tree / name.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, place)
    for name in ("hosts", "resolv.conf"):
        (tree / "etc").mkdir(exist_ok=True)
        (tree / "etc" / name).touch()
