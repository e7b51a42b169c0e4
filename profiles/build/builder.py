"""Build an image from a profile and publish it, as an ordinary user.

The build needs no root, and no setuid program except newuidmap(1). It makes the image's tree in a private folder on a
local disk: with mmdebstrap(1) for `debian:` bases, otherwise from the base's SIF or from the layers of a container
image. Each further step runs as root of that tree. The tree becomes a zstd squashfs, that a SIF, and one rename
publishes the SIF as a version in the store.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.build import namespace, network
from profiles.build.bases import base_digest, find_base
from profiles.build.build_key import build_key
from profiles.build.buildah import Buildah
from profiles.build.cached_steps import CachedSteps
from profiles.build.container_image import find_container_image
from profiles.build.derived_base import DerivedBase, feature_steps
from profiles.build.filling import Filling, TreeFiller
from profiles.build.image_store import layer_store
from profiles.build.inventory_step import make_inventory
from profiles.build.layer_stack import LayerStack
from profiles.build.loaded_recipe import LoadedRecipe
from profiles.build.published import catalog_with, find_published, is_version_taken
from profiles.build.result import BuildResult
from profiles.build.step_cache import DEFAULT_CACHE, BuildCache
from profiles.build.steps import Step, StepCallback, Steps
from profiles.build.tree import ImageTree
from profiles.build.workspace import default_parent, free_bytes, workspace
from profiles.errors import BuildError, ImageExistsError, ProfilesError
from profiles.image import apptainer
from profiles.image.sif import squashfs_offset
from profiles.image.store import (
    IMAGE,
    LOG,
    PACKAGES,
    RECIPE,
    Image,
    Store,
    file_digest,
    verify_image,
)
from profiles.oci.registry_access import authorities_of, plain_access
from profiles.recipe.base import Base, BaseKind
from profiles.recipe.resources import any_option
from profiles.recipe.spec import load_profile
from profiles.signature.signing import write_description

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from profiles.build.bases import FoundBase
    from profiles.build.import_report import ImportReport
    from profiles.image.catalog import Catalog
    from profiles.oci.image_source import OciImage
    from profiles.oci.registry_access import AccessTo
    from profiles.recipe.resources import OptionCheck
    from profiles.recipe.spec import Profile
    from profiles.signature.keys import PrivateSigningKey

__all__ = ["BuildResult", "Step", "StepCallback", "build"]

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
    recipe: Path | LoadedRecipe,
    *,
    store: Store,
    bases: Catalog | None = None,
    progress: StepCallback = lambda _: None,
    work: Path | None = None,
    time_limit: float = TIME_LIMIT_S,
    check_option: OptionCheck = any_option,
    sign_key: PrivateSigningKey | None = None,
    access: AccessTo = plain_access,
    cache: BuildCache = DEFAULT_CACHE,
    add_records: Callable[[Image], None] = lambda _: None,
) -> BuildResult:
    """Build the profile of `recipe`, or of that file, and publish it in `store`, unless it is published there already.

    `bases` is searched for `profile:` bases (default: `store`). `check_option` checks the options in `resources`,
    because a published version can never be corrected. `access` says how registries are reached. `work` is the folder
    on a local disk to build in (default: $TMPDIR, else /var/tmp), `time_limit` is in seconds. With `sign_key` a new
    image is signed. `cache` says whether steps that earlier builds have run are run again. `add_records` may put files
    beside the image before it is published.

    Raises ProfileError for an invalid recipe, ImageExistsError if the version is published from another one, before the
    build or at its end, StoreError, and BuildError for a failed step. Then, and after an interruption, nothing is
    published, and only the log that a BuildError names is left.
    """
    profile = recipe.profile if isinstance(recipe, LoadedRecipe) else load_profile(recipe, check_option)
    catalog = bases or catalog_with(store)
    if is_version_taken(profile, store):
        return BuildResult(find_published(profile, store, catalog, access), built=False)
    stage = store.stage(profile.name, profile.version)
    try:
        with (stage / LOG).open("wb") as log:
            derived = find_base(profile, catalog, access) if profile.base.kind.is_derived else None
            steps = Steps(_plan(profile, derived), log, progress, time.monotonic() + time_limit)
            written = recipe.text.encode() if isinstance(recipe, LoadedRecipe) else recipe.read_bytes()
            (stage / RECIPE).write_bytes(written)
            made = _Build(profile, stage, steps, access, cache).make(catalog, work or default_parent())
            write_description(stage, made.image, sign_key)
            if made.imported is not None:
                made.imported.write(stage)
            add_records(made.image)
        try:
            image = store.publish(stage, profile.name, profile.version)
        except ImageExistsError:  # another builder was faster
            return BuildResult(find_published(profile, store, catalog, access), built=False)
        return BuildResult(image, True, tuple(steps.records), made.imported)
    except BuildError as error:
        error.log = store.keep_log(stage, profile.name, profile.version)
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _plan(profile: Profile, derived: FoundBase) -> list[str]:
    """List the steps of this profile, in order. `derived` is its base if that is built first."""
    base, features = profile.base, list[str]()
    if isinstance(derived, DerivedBase):
        base = derived.inner_base or base
        features = [] if derived.is_layered else feature_steps(derived.features)
    first = ["debian"] if base.kind is BaseKind.DEBIAN else ["unpack", "packages"]
    if base.kind.is_container_image or base.kind.is_derived:
        first = ["fetch", *first]
    if isinstance(derived, DerivedBase) and derived.is_layered:
        first = ["dockerfile" if derived.dockerfile else "features", *first]
    first += features
    own = [name for name in ("files", "pip", "post") if getattr(profile, name)]
    return ["check", *first, *own, "finish", "inventory", "squashfs", "image"]


@dataclass(frozen=True, slots=True)
class _Made:
    image: Image
    imported: ImportReport | None


class _Build:
    """One build: it leaves the SIF and the list of packages in `stage`."""

    def __init__(self, profile: Profile, stage: Path, steps: Steps, access: AccessTo, cache: BuildCache) -> None:
        self._profile = profile
        self._stage = stage
        self._steps = steps
        self._access = access
        self._cache = cache

    def make(self, bases: Catalog, parent: Path) -> _Made:
        """Run the steps in a folder below `parent`."""
        profile, steps, stage = self._profile, self._steps, self._stage
        with steps.step("check"):
            base = find_base(profile, bases, self._access)
            digest = base_digest(base)
            what = Filling(profile, profile.base, None)
            if isinstance(base, DerivedBase):
                what.derived, what.base, base = base, base.inner_base or profile.base, base.inner
            check_machine(what.base.kind, parent)
            if isinstance(base, Image):
                verify_image(base)
            key = build_key(profile, digest)
            created = time.time()
            labels = make_labels(profile, digest, created)
        with ExitStack() as held:
            folder = held.enter_context(workspace(parent))
            if what.derived is not None and what.derived.is_layered:
                base = self._build_layers(what, folder, parent)
            cache = held.enter_context(self._cache.open(parent, folder, steps.run_quietly))
            stack = LayerStack(folder / "layers")
            tree = ImageTree(folder, steps.run, stack)
            TreeFiller(tree, CachedSteps(steps, stack, cache), steps, folder, self._access).fill(what, base)
            with steps.step("finish"):
                (stage / PACKAGES).write_text(tree.finish(what.shell_environment(), json.dumps(labels)))
            with steps.step("inventory"):
                features = what.derived.features if what.derived else ()
                packages = make_inventory(
                    tree, folder, stage, profile, labels=labels, run=steps.run, features=features
                ).counts()
            with steps.step("squashfs") as record:
                squashfs = tree.squash()
                record.size = squashfs.stat().st_size
            with steps.step("image") as record:
                sif = stage / IMAGE
                apptainer.make_sif(squashfs, sif, steps.remaining_seconds())
                record.size = size = sif.stat().st_size
                offset = squashfs_offset(sif)
                described = profile.model_copy(update={"base": profile.base.pin(digest)})
                image = Image(
                    name=profile.name,
                    version=profile.version,
                    path=sif,
                    digest=file_digest(sif),
                    size=size,
                    created=created,
                    labels=labels,
                    profile=described,
                    offset=offset,
                    packages=packages,
                    build_key=key,
                )
        return _Made(image, what.imported)

    def _build_layers(self, what: Filling, folder: Path, parent: Path) -> OciImage:
        """Have buildah build the Dockerfile and the features, and return the image in the layout that it becomes."""
        steps, derived = self._steps, what.derived
        assert derived is not None  # it is built by buildah
        with (
            steps.step("dockerfile" if derived.dockerfile else "features") as record,
            layer_store(parent, folder / "containers") as store,
        ):
            buildah = Buildah(folder, store, steps.run, authorities_of(self._access))
            if derived.dockerfile is not None:
                image = buildah.build(derived.dockerfile, use_cache=self._cache.is_used)
            else:
                assert derived.inner_base is not None  # the base of features without a Dockerfile
                image = buildah.pull(derived.inner_base, base_digest(derived.inner))
            if derived.features:
                image = buildah.add_features(image, derived.features, use_cache=self._cache.is_used)
            layout = buildah.export(image)
            what.base = Base(BaseKind.OCI_LAYOUT, path=layout)
            found = find_container_image(what.base)
            record.size = sum(each.size for each in found.layers)
        return found


def check_machine(kind: BaseKind, parent: Path) -> None:
    """Raise ProfilesError, before anything is done, if the machine lacks something that such a build needs."""
    unneeded = {"unsquashfs"} if kind is BaseKind.DEBIAN else {"mmdebstrap"}
    if kind.is_container_image:
        unneeded = {"mmdebstrap", "unsquashfs"}
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


def make_labels(profile: Profile, base_digest: str, created: float) -> dict[str, str]:
    """Return the labels that record the origin of a SIF; `base_digest` is empty for a fresh Debian."""
    return {
        "berth.profile": profile.name,
        "berth.version": profile.version,
        "berth.base": str(profile.base),
        **({"berth.base.digest": base_digest} if base_digest else {}),
        "berth.created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
        "berth.builder": f"berth {_own_version()}, apptainer {apptainer.apptainer_version()}",
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version("berth")
    except importlib.metadata.PackageNotFoundError:
        return "from source"
