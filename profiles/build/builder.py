"""Build an image from a profile and publish it, as an ordinary user.

The build needs no root, and no setuid program except newuidmap(1). It makes the image's tree in a private folder on a
local disk: with mmdebstrap(1) for `debian:` bases, otherwise from the base's SIF. Each further step runs as root of
that tree. The tree becomes a zstd squashfs, that a SIF, and one rename publishes the SIF as a version in the store.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from profiles.build import namespace, network
from profiles.build.inventory_step import make_inventory
from profiles.build.steps import Step, StepCallback, Steps
from profiles.build.tree import ImageTree
from profiles.build.workspace import default_parent, free_bytes, workspace
from profiles.errors import BuildError, NoSuchImageError, ProfilesError
from profiles.image import apptainer
from profiles.image.catalog import OWN, Catalog
from profiles.image.sif import squashfs_offset
from profiles.image.signature_file import SIGNATURE
from profiles.image.store import (
    DESCRIPTION,
    IMAGE,
    LOG,
    PACKAGES,
    RECIPE,
    Image,
    Store,
    Stores,
    file_digest,
    verify_image,
)
from profiles.oci.descriptor import bytes_digest
from profiles.recipe.base import BaseKind
from profiles.recipe.environment import shell_lines
from profiles.recipe.resources import any_option
from profiles.recipe.spec import load_profile
from profiles.signature.signing import signature_of
from profiles.userfile import is_file

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.recipe.resources import OptionCheck
    from profiles.recipe.spec import Profile
    from profiles.signature.keys import PrivateSigningKey

__all__ = ["Step", "StepCallback", "build"]

SESSION_PACKAGES = (
    "bash",
    "ca-certificates",
    "coreutils",
    "less",
    "libc-bin",
    "ncurses-base",
    "ncurses-term",
    "openssh-client",
    "openssh-server",
    "procps",
    "tzdata",
)
"""Packages that every session needs: an sshd, the data of terminals, and tools to find problems."""

TIME_LIMIT_S = 3600.0
"""Seconds for a whole build."""

MIN_FREE_BYTES = 3 * 1024**3
"""Free bytes that a build requires in its folder: triton-xpu takes 1.6 GB as a tree and 0.6 GB as squashfs."""

TOOLS = {
    "apptainer": "apptainer",
    "mksquashfs": "squashfs-tools",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "unsquashfs": "squashfs-tools",
}
"""The programs that a build runs, and the Debian packages that have them."""


def build(
    recipe: Path,
    *,
    store: Store,
    bases: Catalog | None = None,
    progress: StepCallback = lambda _: None,
    work: Path | None = None,
    time_limit: float = TIME_LIMIT_S,
    check_option: OptionCheck = any_option,
    sign_key: PrivateSigningKey | None = None,
) -> Image:
    """Build the profile in the file `recipe` and publish it in `store`.

    `bases` is searched for `profile:` bases (default: `store`). `check_option` checks the options in `resources`,
    because a published version can never be corrected. `work` is the folder on a local disk to build in
    (default: $TMPDIR, else /var/tmp), `time_limit` is in seconds. With `sign_key` the image is signed.

    Raises ProfileError for an invalid recipe, ImageExistsError if the version is published, before the build or at its
    end, StoreError, and BuildError for a failed step. Then, and after an interruption, nothing is published, and only
    the log that a BuildError names is left.
    """
    profile = load_profile(recipe, check_option)
    stage = store.stage(profile.name, profile.version)
    try:
        with (stage / LOG).open("wb") as log:
            steps = Steps(_plan(profile), log, progress, time.monotonic() + time_limit)
            shutil.copyfile(recipe, stage / RECIPE)
            image = _make(profile, stage, bases or Catalog({OWN: Stores([store])}), work or default_parent(), steps)
            description = json.dumps(image.description(), indent=1).encode()
            (stage / DESCRIPTION).write_bytes(description)
            if sign_key is not None:
                described = replace(image, description_digest=bytes_digest(description))
                (stage / SIGNATURE).write_text(signature_of(described, sign_key, time.time()).text or "")
        return store.publish(stage, profile.name, profile.version)
    except BuildError as error:
        error.log = store.keep_log(stage, profile.name, profile.version)
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _plan(profile: Profile) -> list[str]:
    """List the steps of this profile, in order."""
    first = ["debian"] if profile.base.kind is BaseKind.DEBIAN else ["unpack", "packages"]
    own = [name for name in ("files", "pip", "post") if getattr(profile, name)]
    return ["check", *first, *own, "finish", "inventory", "squashfs", "image"]


def _make(profile: Profile, stage: Path, bases: Catalog, parent: Path, steps: Steps) -> Image:
    """Run the steps, and leave the SIF and the list of packages in `stage`."""
    with steps.step("check"):
        check_machine(profile.base.kind, parent)
        base = _base_image(profile, bases)
        created = time.time()
        labels = make_labels(profile, base, created)
    with workspace(parent) as folder:
        tree = ImageTree(folder, steps.run)
        _fill(tree, profile, base, steps)
        with steps.step("finish"):
            environment = shell_lines(_environment(profile), venv=bool(profile.pip))
            (stage / PACKAGES).write_text(tree.finish(environment, json.dumps(labels)))
        with steps.step("inventory"):
            packages = make_inventory(tree, folder, stage, profile, labels=labels, run=steps.run).counts()
        with steps.step("squashfs"):
            squashfs = tree.squash()
        with steps.step("image"):
            sif = stage / IMAGE
            apptainer.make_sif(squashfs, sif, steps.remaining_seconds())
            size = sif.stat().st_size
            offset = squashfs_offset(sif)
            digest = file_digest(sif)
            return Image(
                profile.name, profile.version, sif, digest, size, created, labels, profile, offset, packages=packages
            )


def _fill(tree: ImageTree, profile: Profile, base: Path | None, steps: Steps) -> None:
    """Fill the tree with the content of the profile."""
    packages = [*SESSION_PACKAGES, *profile.apt, *(["python3-venv"] if profile.pip else [])]
    if base is None:
        with steps.step("debian"):
            tree.debian(profile.base.suite, packages)
    else:
        with steps.step("unpack"):
            tree.unpack(base)
        with steps.step("packages"):
            tree.install(packages)
    if profile.files:
        with steps.step("files"):
            tree.add(profile.files)
    if profile.pip:
        with steps.step("pip"):
            tree.pip(profile.pip)
    if profile.post:
        with steps.step("post"):
            tree.post(profile.post)


def check_machine(kind: BaseKind, parent: Path) -> None:
    """Raise ProfilesError, before anything is done, if the machine lacks something that such a build needs."""
    unneeded = {"unsquashfs"} if kind is BaseKind.DEBIAN else {"mmdebstrap"}
    if os.geteuid() == 0:
        unneeded.add("newuidmap")
    missing = [tool for tool in TOOLS if tool not in unneeded and not shutil.which(tool, path=network.PATH)]
    if missing:
        names = ", ".join(sorted({TOOLS[tool] for tool in missing}))
        raise ProfilesError(f"not installed: {', '.join(missing)}", hint=f"in Debian: {names}")
    if said := namespace.namespace_problem():
        raise ProfilesError(
            f"user namespaces do not work here: {said}",
            hint="it takes a range of ids for you in /etc/subuid and /etc/subgid (usermod --add-subuids), and a "
            "kernel that lets users make namespaces",
        )
    if os.statvfs(parent).f_flag & os.ST_NOEXEC:
        raise ProfilesError(f"{parent} is mounted noexec", hint="set TMPDIR to another folder on a local disk")
    free = free_bytes(parent)
    if free < MIN_FREE_BYTES:
        raise ProfilesError(
            f"{free // 1024**2} MiB are free in {parent}, a build wants {MIN_FREE_BYTES // 1024**2} MiB",
            hint="make room, or set TMPDIR to a folder on a local disk that has it",
        )


def find_base(profile: Profile, bases: Catalog) -> Path | Image | None:
    """Find the SIF or the image to start from; None for a `debian:` base. Raises ProfilesError."""
    base = profile.base
    match base.kind:
        case BaseKind.DEBIAN:
            return None
        case BaseKind.SIF:
            if not is_file(base.path):
                raise NoSuchImageError(
                    f"the base {base.path} is not there", hint="a `sif:` path is relative to the profile"
                )
            return base.path
        case BaseKind.PROFILE:
            return bases.find(base.reference, base.version)


def _base_image(profile: Profile, bases: Catalog) -> Path | None:
    """Find and verify the SIF to start from; None for a `debian:` base."""
    base = find_base(profile, bases)
    if not isinstance(base, Image):
        return base
    verify_image(base)
    return base.path


def make_labels(profile: Profile, base: Path | None, created: float) -> dict[str, str]:
    """Return the labels that record the origin of a SIF."""
    return {
        "berth.profile": profile.name,
        "berth.version": profile.version,
        "berth.base": str(profile.base),
        **({"berth.base.digest": file_digest(base)} if base else {}),
        "berth.created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
        "berth.builder": f"berth {_own_version()}, apptainer {apptainer.apptainer_version()}",
    }


def _environment(profile: Profile) -> dict[str, str]:
    """Add the only UTF-8 locale of a fresh Debian to the profile's environment."""
    return {**({"LANG": "C.UTF-8"} if profile.base.kind is BaseKind.DEBIAN else {}), **profile.environment}


def _own_version() -> str:
    try:
        return importlib.metadata.version("berth")
    except importlib.metadata.PackageNotFoundError:
        return "from source"
