"""Fill the tree of an image: the base, and what the recipe adds to it, step by step."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from profiles.build import network
from profiles.build.build_key import file_keys
from profiles.build.container_image import fetched_layers, unpack_layers
from profiles.build.derived_base import feature_steps
from profiles.build.import_report import ImportReport, changed_content, ignored_settings, image_environment
from profiles.devcontainer.image_metadata import NO_METADATA, read_metadata
from profiles.errors import OciImageError
from profiles.image.store import Image, file_digest
from profiles.oci.image_source import OciImage
from profiles.oci.unpack_findings import UnpackFindings
from profiles.recipe.base import BaseKind
from profiles.recipe.environment import shell_lines

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.build.cached_steps import CachedSteps
    from profiles.build.derived_base import DerivedBase
    from profiles.build.steps import Steps
    from profiles.build.tree import ImageTree
    from profiles.oci.registry_access import AccessTo
    from profiles.recipe.base import Base
    from profiles.recipe.spec import Profile

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


@dataclass(slots=True)
class Filling:
    """The content of a tree, and the findings about it."""

    profile: Profile
    base: Base
    """The base from which the tree is filled. If the recipe's base is built first, it is the result."""
    derived: DerivedBase | None
    imported: ImportReport | None = None
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that the image of a container sets, before those of the recipe."""

    def shell_environment(self) -> str:
        """Return the variables of the image and then those of the recipe, and the only locale of a fresh Debian."""
        profile, inherited = self.profile, self.environment
        kind = self.base.kind
        has_locale = kind in {BaseKind.PROFILE, BaseKind.SIF} or inherited.keys() & {"LANG", "LC_ALL"}
        first = shell_lines({**({} if has_locale else {"LANG": "C.UTF-8"}), **inherited}, venv=False)
        if self.derived is not None:
            first += self.derived.shell_environment()
        return first + shell_lines(profile.environment, venv=bool(profile.pip))


class TreeFiller:
    """Fills `tree` by steps, of which some may come from the cache. `folder` is the build's own."""

    def __init__(self, tree: ImageTree, cached: CachedSteps, steps: Steps, folder: Path, access: AccessTo) -> None:
        self._tree = tree
        self._cached = cached
        self._steps = steps
        self._folder = folder
        self._access = access

    def fill(self, what: Filling, found: Path | Image | OciImage | None) -> None:
        """Fill the tree from the base that was `found`, and note the rest in `what`. Raises BuildError."""
        profile, tree, cached = what.profile, self._tree, self._cached
        session = [*SESSION_PACKAGES, *(["python3-venv"] if profile.pip else [])]
        if found is None:
            packages = [*session, *profile.apt]
            with cached.step("debian", [what.base.suite, packages, network.mirrors()]) as is_run:
                if is_run:
                    tree.debian(what.base.suite, packages)
        else:
            if isinstance(found, OciImage):
                self._import(what, found)
            else:
                self._unpack(found)
            with cached.step("packages", [session, list(profile.apt)]) as is_run:
                if is_run:
                    tree.install(session, profile.apt)
        self._add(what)

    def _unpack(self, found: Path | Image) -> None:
        digest = found.digest if isinstance(found, Image) else file_digest(found)
        with self._cached.step("unpack", [digest]) as is_run:
            if is_run:
                self._tree.unpack(found.path if isinstance(found, Image) else found)

    def _add(self, what: Filling) -> None:
        """Add what the recipe has beside its base and packages."""
        profile, tree, cached = what.profile, self._tree, self._cached
        if what.derived is not None and not what.derived.is_layered:
            features = what.derived.features
            for number, name in enumerate(feature_steps(features)):
                before = [sorted(each.environment.items()) for each in features[: number + 1]]
                with cached.step(name, [features[number].reads(), before]) as is_run:
                    if is_run:
                        tree.feature(features, number)
        if profile.files:
            with cached.step("files", file_keys(profile)) as is_run:
                if is_run:
                    tree.add(profile.files)
        if profile.pip:
            with cached.step("pip", [list(profile.pip), tree.pip_settings()]) as is_run:
                if is_run:
                    tree.pip(profile.pip)
        if profile.post:
            with cached.step("post", [profile.post]) as is_run:
                if is_run:
                    tree.post(profile.post)

    def _import(self, what: Filling, image: OciImage) -> None:
        """Fill the tree with the layers of a container image, and take its environment."""
        settings = image.config.settings
        noted = self._cached.find("unpack", list(image.config.diff_ids), instead_of=("fetch",))
        findings = self._fetch(what.base, image) if noted is None else UnpackFindings.from_json(json.loads(noted))
        is_dev = what.profile.base.kind is BaseKind.DEVCONTAINER
        metadata = read_metadata(settings) if is_dev else NO_METADATA
        what.environment, items = image_environment(settings, what.profile.environment, metadata)
        items += [*ignored_settings(settings, metadata), *changed_content(findings)]
        what.imported = ImportReport(str(what.profile.base), image.digest, items, metadata)

    def _fetch(self, base: Base, image: OciImage) -> UnpackFindings:
        with ExitStack() as held:
            with self._steps.step("fetch") as record:
                layers = held.enter_context(fetched_layers(base, image, self._folder, self._access, self._steps.say))
                record.size = sum(each.size for each in image.layers)
            with self._cached.run("unpack") as (record, noted):
                findings = unpack_layers(layers, self._tree.path, self._folder, self._steps.run)
                record.size = findings.unpacked_bytes
                if not findings.has_shell:
                    raise OciImageError(
                        "the image has no /bin/sh, and a session needs a shell and an OpenSSH server",
                        hint="take an image with a package manager as the base, and copy what you need from this one",
                    )
                noted["note"] = json.dumps(findings.as_json())
        return findings
