"""Publish an image made from a session's system layers, for `berth profile commit`.

A commit works like a build: in a private folder, as root of a user namespace, and it publishes everything or nothing.
It unpacks the base, compares the layers with it, asks the caller to approve the changes, and applies the layers.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.build.builder import TIME_LIMIT_S, check_machine, make_labels
from profiles.build.inventory_step import make_inventory
from profiles.build.steps import StepCallback, Steps
from profiles.build.tree import ImageTree
from profiles.build.tree_program import run_tree_module
from profiles.build.workspace import default_parent, workspace
from profiles.commit import tree_worker
from profiles.commit.filters import PathFilter
from profiles.commit.findings import Findings
from profiles.commit.generate_recipe import generate_recipe
from profiles.errors import BuildError, NothingChangedError, PatternError, ProfilesError
from profiles.image import apptainer
from profiles.image.layered_tree import KEPT, MAX_KEPT_BYTES, MAX_OWNERS_BYTES, OWNERS, TREE
from profiles.image.overlayfs import FUSE_WRITTEN
from profiles.image.sif import squashfs_offset
from profiles.image.store import IMAGE, LOG, PACKAGES, RECIPE, Image, Store, file_digest, verify_image
from profiles.image.unpack_layers import unpack_with_fuse_marks
from profiles.recipe.base import BaseKind
from profiles.recipe.spec import load_profile
from profiles.signature.signing import write_description
from profiles.userfile import read_pieces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from profiles.signature.keys import PrivateSigningKey

SQUASHFS = "layer.squashfs"
"""File in a layer's directory, instead of `tree`, where the storage keeps layers packed."""

STEPS = ("check", "unpack", "layers", "compare", "apply", "finish", "inventory", "squashfs", "image")

Approve = Callable[[Findings], None]
"""Gets the changes and returns if they are approved. Otherwise it raises the exception that ends the commit."""


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a commit: the system layers of a session over the image that it was started from."""

    session: str
    """The session's name, for the labels and the recipe's first line."""
    base: Image
    layers: Sequence[Path]
    """Directories with `tree` or `layer.squashfs`, and perhaps `owners`; oldest first."""
    owner: str = ""
    """`own/` if the base is the user's own image, so that the recipe names that one."""


def commit_session(
    source: Source,
    *,
    name: str,
    version: str,
    store: Store,
    approve: Approve,
    path_filter: PathFilter | None = None,
    progress: StepCallback = lambda _: None,
    work: Path | None = None,
    time_limit: float = TIME_LIMIT_S,
    sign_key: PrivateSigningKey | None = None,
) -> Image:
    """Make an image of the session's system and publish it in `store` as `name`@`version`.

    `work` is the folder on a local disk to work in (default: $TMPDIR, else /var/tmp). `time_limit` is in seconds,
    without the time of `approve`. With `sign_key` the image is signed. Raises PatternError, ImageExistsError,
    StoreError, NothingChangedError, BuildError for a failed step, and every exception of `approve`. Then nothing is
    published, and only the log that a BuildError names is left.
    """
    path_filter = path_filter or PathFilter()
    path_filter.check()
    stage = store.stage(name, version)
    try:
        with (stage / LOG).open("wb") as log:
            steps = Steps(STEPS, log, progress, time.monotonic() + time_limit)
            target = _Target(name, version, stage, work or default_parent())
            image = _make(source, target, path_filter, approve, steps)
            write_description(stage, image, sign_key)
        return store.publish(stage, name, version)
    except BuildError as error:
        error.log = store.keep_log(stage, name, version)
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Target:
    name: str
    version: str
    stage: Path
    """The folder in which the version is prepared."""
    work: Path
    """A folder with room for the tree."""


def _make(source: Source, target: _Target, path_filter: PathFilter, approve: Approve, steps: Steps) -> Image:
    """Run the steps, and leave the SIF, the recipe and the list of packages in the stage."""
    with steps.step("check"):
        check_machine(BaseKind.PROFILE, target.work)
        verify_image(source.base)
    with workspace(target.work) as folder:
        tree = ImageTree(folder, steps.run)
        with steps.step("unpack"):
            tree.unpack(source.base.path)
        with steps.step("layers"):
            layers = [_unpacked_layer(layer, folder / "layers", steps) for layer in source.layers]
        request = tree_worker.TreeRequest(
            str(tree.path), [str(layer) for layer in layers], [*path_filter.include], [*path_filter.exclude]
        )
        request.write(folder)
        with steps.step("compare"):
            _run_tree_worker("compare", folder, steps)
            findings = Findings.from_json((folder / tree_worker.FINDINGS).read_text())
        _require_changes(findings, source)
        began = time.monotonic()
        approve(findings)
        steps.extend(time.monotonic() - began)
        created = time.time()
        with steps.step("apply"):
            heading = (
                f"Committed from the session {source.session} on {time.strftime('%Y-%m-%d', time.gmtime(created))}."
            )
            recipe = target.stage / RECIPE
            recipe.write_text(
                generate_recipe(target.name, target.version, source.base, findings, heading, owner=source.owner),
                encoding="utf-8",
            )
            profile = load_profile(recipe)
            _run_tree_worker("apply", folder, steps)
        with steps.step("finish"):
            labels = make_labels(profile, source.base.digest, created) | {"berth.commit": source.session}
            (target.stage / PACKAGES).write_text(tree.finish("", json.dumps(labels)))
        with steps.step("inventory"):
            packages = make_inventory(tree, folder, target.stage, profile, labels=labels, run=steps.run).counts()
        with steps.step("squashfs"):
            squashfs = tree.squash()
        with steps.step("image"):
            sif = target.stage / IMAGE
            apptainer.make_sif(squashfs, sif, steps.remaining_seconds())
            size = sif.stat().st_size
            digest, offset = file_digest(sif), squashfs_offset(sif)
            return Image(
                target.name, target.version, sif, digest, size, created, labels, profile, offset, packages=packages
            )


def _unpacked_layer(layer: Path, room: Path, steps: Steps) -> Path:
    """Return a layer's directory with a `tree` in it: the layer's own, or one below `room` with the unpacked layer."""
    if not (layer / SQUASHFS).is_file():
        if (layer / TREE).is_dir():
            return layer
        raise ProfilesError(
            f"the layer {layer} is missing", hint="`berth verify NAME` lists the damaged parts of a session"
        )
    opened = room / layer.name
    opened.mkdir(parents=True)
    unpack_with_fuse_marks(layer / SQUASHFS, opened / TREE, steps.remaining_seconds())
    if (layer / FUSE_WRITTEN).exists():
        (opened / FUSE_WRITTEN).touch()
    for name, limit in ((OWNERS, MAX_OWNERS_BYTES), (KEPT, MAX_KEPT_BYTES)):
        if (layer / name).exists():
            with (opened / name).open("wb") as copy:
                copy.writelines(read_pieces(layer / name, limit, own=False))
    return opened


def _run_tree_worker(what: str, folder: Path, steps: Steps) -> None:
    """Run profiles.commit.tree_worker as root of the tree."""
    run_tree_module(steps.run, "profiles.commit.tree_worker", str(folder), what)


def _require_changes(findings: Findings, source: Source) -> None:
    """Raise PatternError for patterns without effect, NothingChangedError if the new image would equal the base."""
    if findings.unmatched:
        raise PatternError(
            f"no changed path matches {findings.unmatched[0]}",
            hint="--include and --exclude take absolute paths, as the session sees them",
        )
    if findings.empty:
        left = f", or would be left out: {findings.left_out[0].path}" if findings.left_out else ""
        raise NothingChangedError(
            f"nothing outside the home of {source.session} differs from {source.base.name}@{source.base.version}{left}",
            hint="what is in the home never goes into an image; --include PATH takes what was left out"
            if findings.left_out
            else "what is in the home never goes into an image",
        )
