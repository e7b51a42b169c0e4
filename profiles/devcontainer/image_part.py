"""The image's part of a devcontainer.json: its base, its features in their order, and its variables."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from profiles.devcontainer.feature_graph import FeatureNode, install_order, plain_name, resolve_features
from profiles.devcontainer.feature_metadata import chosen_options, option_variables
from profiles.devcontainer.ignored import IGNORED, Finding
from profiles.dockerfile.spec import DockerfileBuild
from profiles.errors import FeatureError, ProfileError
from profiles.recipe.base import Base, parse_base
from profiles.recipe.spec import RESERVED_VARIABLES
from profiles.userfile import is_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from profiles.devcontainer.config import DevConfig
    from profiles.devcontainer.feature_source import FeatureSource

FORMAT = 1
"""Changes when the same files give another image, so that all are built again."""

_TRANSPORT = re.compile(r"(?:oci|oci-archive|docker-archive):")


@dataclass(frozen=True, slots=True)
class DevFeature:
    """A feature to install: its files, and the variables of its script."""

    name: str
    version: str
    folder: Path
    digest: str
    variables: Mapping[str, str]
    environment: Mapping[str, str]
    """Variables of the image, set before the script runs, in the form of a recipe's `environment`."""

    def reads(self) -> list[object]:
        """Return what identifies the installation: name, content and options, in a form that JSON has."""
        return [self.name, self.digest, sorted(self.variables.items())]


@dataclass(slots=True)
class ImagePart:
    """The image's part of a dev container, and the findings for the report."""

    base: Base | DockerfileBuild
    features: list[DevFeature]
    environment: dict[str, str]
    """The variables of devcontainer.json, in the form of a recipe's `environment`."""
    nodes: list[FeatureNode]
    findings: list[Finding] = field(default_factory=list)

    def key(self, base_digest: str) -> str:
        """Return 64 hexadecimal digits that change with anything that the build of the image reads.

        `base_digest` stands for the content of a base that is not a Dockerfile. Raises ProfilesError.
        """
        base = (
            ["dockerfile", self.base.key()] if isinstance(self.base, DockerfileBuild) else [str(self.base), base_digest]
        )
        features = [each.reads() for each in self.features]
        parts = [FORMAT, base, features, list(self.environment.items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def image_part(config: DevConfig, source: FeatureSource) -> ImagePart:
    """Return what the file asks of the image. Raises ProfilesError for anything that the image cannot have."""
    dev = config.dev
    findings: list[Finding] = []
    base = _base(config, findings)
    nodes = resolve_features(dev.features, source.load)
    ordered = install_order(nodes, dev.install_order)
    names = {node.name for node in nodes}
    missing = [name for name in dev.install_order if plain_name(name) not in names]
    findings += [Finding("overrideFeatureInstallOrder", "ignored", f"{each[:120]} is no feature") for each in missing]
    features = [_feature(node, findings) for node in ordered]
    environment = dict(_literal(dev.container_env, "containerEnv", findings))
    if environment:
        findings.append(Finding("containerEnv", "taken", f"the image has {', '.join(environment)}"))
    return ImagePart(base, features, environment, ordered, findings)


def _base(config: DevConfig, findings: list[Finding]) -> Base | DockerfileBuild:
    dev = config.dev
    own = dev.customizations.berth.base
    if own:
        others = [key for key in ("image", "build") if getattr(dev, key) is not None]
        findings += [Finding(key, "ignored", f"`customizations.berth.base` says {own}") for key in others]
        findings.append(Finding("customizations.berth.base", "taken", own))
        return _parsed_base(own, "customizations.berth.base", config)
    if dev.image is not None:
        findings.append(Finding("image", "taken", dev.image))
        text = dev.image if _TRANSPORT.match(dev.image) else f"oci:{dev.image}"
        return _parsed_base(text, "image", config)
    build = dev.build
    assert build is not None  # the schema has one of the three
    file = _within(config, build.dockerfile, "build.dockerfile")
    if not is_file(file):
        raise ProfileError(f"there is no {file}", file=config.file, hint="`build.dockerfile` is relative to this file")
    findings.append(Finding("build", "taken", f"{file}{f', target {build.target}' if build.target else ''}"))
    if build.args:
        findings.append(Finding("build.args", "taken", ", ".join(build.args)))
    context = _within(config, build.context, "build.context")
    return DockerfileBuild(file, context, build.target or "", build.args)


def _parsed_base(text: str, key: str, config: DevConfig) -> Base:
    try:
        return parse_base(text).resolve(config.folder)
    except ValueError as error:
        raise ProfileError(f"`{key}` is {text[:120]!r}, and {error}", file=config.file) from error


def _within(config: DevConfig, path: str, key: str) -> Path:
    """Return a path of the repository. ProfileError for any other: the Dockerfile of a stranger could read it."""
    found = (config.folder / path).resolve()
    if not found.is_relative_to(config.workspace.resolve()):
        raise ProfileError(f"`{key}` leads out of the repository: {found}", file=config.file)
    return found


def _feature(node: FeatureNode, findings: list[Finding]) -> DevFeature:
    metadata = node.feature.metadata
    title = f"feature {node.feature.reference}"
    try:
        options = chosen_options(dict(node.options), metadata)
    except ValueError as error:
        raise FeatureError(f"{title}: {error}") from error
    findings.append(Finding(title, "taken", f"{metadata.version or 'no version'}, {node.feature.digest[:19]}"))
    if unknown := sorted(node.options.keys() - metadata.options.keys()):
        findings.append(Finding(title, "changed", f"its script gets {', '.join(unknown)}, which it does not declare"))
    if metadata.deprecated:
        findings.append(Finding(title, "taken", "its authors do not maintain it any more", important=True))
    demands = [Finding(f"{key} of {node.name}", "ignored", IGNORED[key], important=True) for key in metadata.demands]
    findings += demands
    environment = dict(_references(metadata.container_env, f"containerEnv of {node.name}", findings))
    variables = option_variables(options) | _USERS
    return DevFeature(node.name, metadata.version, node.feature.folder, node.feature.digest, variables, environment)


_USERS = {
    "_CONTAINER_USER": "root",
    "_CONTAINER_USER_HOME": "/root",
    "_REMOTE_USER": "root",
    "_REMOTE_USER_HOME": "/root",
}
"""The users of an image, for the scripts of features: a session's own user is not in it."""


def _literal(values: Mapping[str, str], key: str, findings: list[Finding]) -> Iterator[tuple[str, str]]:
    """Yield variables whose values stand for themselves."""
    return ((name, value.replace("$", "$$")) for name, value in _usable_variables(values, key, findings))


def _references(values: Mapping[str, str], key: str, findings: list[Finding]) -> Iterator[tuple[str, str]]:
    """Yield variables whose values may refer to others, as ENV of a Dockerfile does."""
    return ((name, value.replace("\\$", "$$")) for name, value in _usable_variables(values, key, findings))


def _usable_variables(values: Mapping[str, str], key: str, findings: list[Finding]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if RESERVED_VARIABLES.match(name) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            findings.append(
                Finding(f"{key}.{name}"[:120], "ignored", "the session sets this variable, or no program could")
            )
        elif not value.isprintable():
            findings.append(Finding(f"{key}.{name}", "ignored", "its value has a line break or a control character"))
        else:
            yield name, value
