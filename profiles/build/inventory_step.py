"""The step of a build that makes the inventory of the image, before the tree is packed.

Both documents become part of the image, so that its digest and its signature cover them, and lie beside it in the
store.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

from profiles.build import network
from profiles.build.namespace import namespace_problem
from profiles.build.tree import ImageTree
from profiles.build.tree_program import run_tree_module
from profiles.build.workspace import default_parent, workspace
from profiles.errors import ProfilesError
from profiles.inventory.cyclonedx_reader import read_inventory
from profiles.inventory.inventory_worker import InventoryRequest
from profiles.inventory.model import (
    CYCLONEDX_NAME,
    SPDX_NAME,
    ImageOrigin,
    InstalledPackage,
    Inventory,
    InventoryError,
    PackageKind,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from profiles.build.command import ProgramRunner
    from profiles.devcontainer.image_part import DevFeature
    from profiles.image.store import Image
    from profiles.recipe.spec import Profile

UNPACK_TIMEOUT_S = 1800.0
"""For unpacking an image and reading it: those of 20 GB take minutes."""


def make_inventory(
    tree: ImageTree,
    folder: Path,
    stage: Path,
    profile: Profile,
    *,
    labels: Mapping[str, str],
    run: ProgramRunner,
    features: Sequence[DevFeature] = (),
) -> Inventory:
    """Make the inventory of a finished tree, and leave both documents in the tree and in `stage`.

    `folder` is the build's own, `features` are those that it has installed. Raises what `run` raises, and
    InventoryError.
    """
    installed = tuple(
        InstalledPackage(PackageKind.FEATURE, each.name, each.version, digest=each.digest) for each in features
    )
    InventoryRequest(str(tree.path), _origin(profile, labels), is_kept=True, features=installed).write(folder)
    run_tree_module(run, "profiles.inventory.inventory_worker", str(folder), enter=tree.enter)
    for name in (CYCLONEDX_NAME, SPDX_NAME):
        shutil.copyfile(folder / name, stage / name)
    return read_inventory(folder / CYCLONEDX_NAME)


def _origin(profile: Profile, labels: Mapping[str, str]) -> ImageOrigin:
    return ImageOrigin(
        profile.name,
        profile.version,
        str(profile.base),
        labels.get("berth.base.digest", ""),
        labels.get("berth.created", ""),
        labels.get("berth.builder", ""),
    )


def inventory_of(image: Image, work: Path | None = None) -> tuple[Inventory, bool]:
    """Return the inventory of an image, and whether it was built without one, so that it was made from the image now.

    That takes a user namespace, and room for the unpacked image in `work` (default: $TMPDIR, else /var/tmp). Raises
    ProfilesError.
    """
    try:
        return read_inventory(image.directory / CYCLONEDX_NAME), False
    except FileNotFoundError:
        return _inventory_of_old_image(image, work or default_parent()), True
    except OSError as error:
        raise InventoryError(f"{image.directory / CYCLONEDX_NAME} cannot be read: {error.strerror}") from error


def _inventory_of_old_image(image: Image, parent: Path) -> Inventory:
    """Unpack the image, and make its inventory from that."""
    if not shutil.which("unsquashfs", path=network.PATH):
        raise ProfilesError("not installed: unsquashfs", hint="in Debian: squashfs-tools")
    if said := namespace_problem():
        raise ProfilesError(
            f"{image.name}@{image.version} has no inventory beside it, and cannot be unpacked here: {said}",
            hint="run this on a machine that can build profiles",
        )
    deadline = time.monotonic() + UNPACK_TIMEOUT_S

    def run(argv: Sequence[str], env: Mapping[str, str]) -> str:
        return _run(argv, env, deadline - time.monotonic())

    try:
        with workspace(parent) as room:
            tree = ImageTree(room, run)
            tree.unpack(image.path)
            InventoryRequest(str(tree.path), _origin(image.profile, image.labels), is_kept=False).write(room)
            run_tree_module(run, "profiles.inventory.inventory_worker", str(room))
            return read_inventory(room / CYCLONEDX_NAME)
    except OSError as error:
        raise InventoryError(f"the image could not be unpacked in {parent}: {error.strerror}") from error


def _run(argv: Sequence[str], env: Mapping[str, str], seconds: float) -> str:
    try:
        done = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InventoryError("the inventory was not made in time") from error
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise InventoryError(f"the inventory could not be made: {(lines or [''])[-1].removeprefix('error: ')}")
    return done.stdout
