"""A repository's dev container as a profile: the recipe, its version, and the report."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from profiles.devcontainer.base_content import base_content
from profiles.devcontainer.config import read_dev_config
from profiles.devcontainer.feature_source import FeatureSource, feature_cache
from profiles.devcontainer.image_metadata import merge_metadata, metadata_entries, metadata_findings
from profiles.devcontainer.image_part import image_part
from profiles.devcontainer.lock_file import read_lock
from profiles.devcontainer.session_part import session_part
from profiles.dockerfile.spec import DockerfileBuild

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from profiles.devcontainer.config import DevConfig
    from profiles.devcontainer.feature_source import FeatureRegistry
    from profiles.devcontainer.ignored import Finding
    from profiles.devcontainer.image_metadata import ImageMetadata
    from profiles.devcontainer.image_part import ImagePart
    from profiles.devcontainer.session_part import SessionPart
    from profiles.image.catalog import Catalog

KEY_DIGITS = 16
"""Hexadecimal digits of the build key in a version."""
MAX_NAME_CHARS = 39


@dataclass(frozen=True, slots=True)
class DevPlan:
    """The profile and the session of a repository's dev container."""

    config: DevConfig
    image: ImagePart
    session: SessionPart
    name: str
    """The profile's name, and by default the session's."""
    version: str
    """The beginning of the build key."""
    is_bound: bool
    """Whether the session sees the repository itself, and not a copy."""

    @property
    def findings(self) -> list[Finding]:
        """The report, with what is ignored at the end."""
        found = [*self.image.findings, *self.session.findings, *self.config.findings]
        return sorted(found, key=lambda finding: finding.verdict == "ignored")

    @property
    def origin(self) -> str:
        """The recipe's base, which names the file: by it an image of this dev container is recognised."""
        return f"devcontainer:{self.config.file}"

    def recipe(self) -> dict[str, object]:
        """Return the profile's recipe, as data for YAML."""
        binds: list[dict[str, object]] = [
            {"source": each.source, "destination": each.target, "readonly": str(each.readonly).lower()}
            for each in self.session.binds
        ]
        if self.is_bound:
            workspace = {"source": str(self.config.workspace), "destination": self.config.inside, "readonly": "false"}
            binds.insert(0, {**workspace})
        return {
            "name": self.name,
            "version": self.version,
            "description": f"the dev container of {self.config.workspace}",
            "base": self.origin,
            **({"binds": binds} if binds else {}),
        }


def plan_with_metadata(plan: DevPlan, metadata: ImageMetadata, is_allowed: Callable[[str], bool]) -> DevPlan:
    """Return the plan whose session also has what the label of the built image says, and the report of that too."""
    entries = metadata_entries(metadata, plan.config)
    config = merge_metadata(plan.config, entries)
    session = session_part(config, plan.image.nodes, is_allowed, entries)
    known = {*plan.findings}
    new = (each for each in session.findings if each not in known)
    session.findings = [*plan.session.findings, *metadata_findings(metadata), *new]
    return replace(plan, config=config, session=session)


def load_image_part(config: DevConfig, registry: FeatureRegistry) -> ImagePart:
    """Return what a devcontainer.json asks of the image, with its features on this machine. Raises ProfilesError."""
    source = FeatureSource(config.file, registry, read_lock(config.file), feature_cache())
    return image_part(config, source)


def make_plan(
    file: Path, *, bases: Catalog, registry: FeatureRegistry, is_allowed: Callable[[str], bool], name: str = ""
) -> DevPlan:
    """Read a devcontainer.json and all that the build of its image reads. Raises ProfilesError.

    `is_allowed` says whether the site lets sessions see a directory of the shared file system. Nothing is built.
    """
    config = read_dev_config(file)
    is_bound = is_allowed(str(config.workspace)) and not set(str(config.workspace)) & set(":,\\")
    if is_bound and config.dev.workspace_folder is None:
        config = read_dev_config(file, inside=str(config.workspace))
    image = load_image_part(config, registry)
    session = session_part(config, image.nodes, is_allowed)
    digest = "" if isinstance(image.base, DockerfileBuild) else base_content(image.base, bases)
    plan = DevPlan(config, image, session, name or profile_name(config.workspace.name), "", is_bound)
    # With the origin: two clones with folders of the same name have images of their own.
    parts = [image.key(digest), plan.recipe().get("binds"), plan.origin]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return DevPlan(config, image, session, plan.name, key[:KEY_DIGITS], is_bound)


def profile_name(text: str) -> str:
    """Return a valid name for a profile and a session that is as much like `text` as it can be."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return (plain if plain[:1].isalpha() else f"dev-{plain}".rstrip("-"))[:MAX_NAME_CHARS].rstrip("-")
