"""The features that are installed, and their order, as the specification of dev containers has it.

The features of devcontainer.json need others (`dependsOn`), which need others. In each round, the features whose needs
are installed come next: of these those with the highest priority of `overrideFeatureInstallOrder`, sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.devcontainer.feature_metadata import FeatureMetadata, user_options
from profiles.devcontainer.feature_reference import FeatureReference, parse_feature
from profiles.devcontainer.schema import MAX_FEATURES
from profiles.errors import FeatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from profiles.devcontainer.feature_metadata import FeatureOptions


@dataclass(frozen=True, slots=True)
class LoadedFeature:
    """A feature that is on this machine: its name, its files, and the digest of its content."""

    reference: FeatureReference
    metadata: FeatureMetadata
    folder: Path
    digest: str
    """`sha256:…` of the manifest in the registry, or of the files of a local folder."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureNode:
    """A feature with the options that it is installed with, and the features that it needs."""

    feature: LoadedFeature
    options: Mapping[str, str | bool]
    """The options that a user, or the feature that needs it, has given."""
    needs: list[FeatureNode]

    @property
    def name(self) -> str:
        return self.feature.reference.name


def resolve_features(
    wanted: Mapping[str, FeatureOptions], load: Callable[[FeatureReference], LoadedFeature]
) -> list[FeatureNode]:
    """Return the wanted features and all that they need, each content with the same options once.

    Raises FeatureError for a name that is none, and for more than `MAX_FEATURES` features; and what `load` raises.
    """
    nodes: list[FeatureNode] = []
    work: list[tuple[str, FeatureOptions, FeatureNode | None]]
    work = [(name, options, None) for name, options in wanted.items()]
    while work:
        name, given, needed_by = work.pop(0)
        node, is_new = _node(nodes, _parse_name(name, needed_by), user_options(given), load)
        if needed_by is not None:
            needed_by.needs.append(node)
        if is_new:
            if len(nodes) > MAX_FEATURES:
                raise FeatureError(f"more than {MAX_FEATURES} features, with those that they depend on")
            work += [(name, options, node) for name, options in node.feature.metadata.depends_on.items()]
    return nodes


def _parse_name(name: str, needed_by: FeatureNode | None) -> FeatureReference:
    try:
        return parse_feature(name)
    except ValueError as error:
        where = f", on which {needed_by.name} depends," if needed_by else ""
        raise FeatureError(f"the feature {name[:120]!r}{where} {error}") from error


def _node(
    nodes: list[FeatureNode],
    reference: FeatureReference,
    options: Mapping[str, str | bool],
    load: Callable[[FeatureReference], LoadedFeature],
) -> tuple[FeatureNode, bool]:
    """Return the node of a feature with these options, and whether it was added now."""
    feature = load(reference)
    for node in nodes:
        if (node.name, node.feature.digest, node.options) == (reference.name, feature.digest, options):
            return node, False
    nodes.append(FeatureNode(feature, options, []))
    return nodes[-1], True


def install_order(nodes: Sequence[FeatureNode], override: Sequence[str] = ()) -> list[FeatureNode]:
    """Return the features in the order of their installation. Raises FeatureError if they need each other in a circle.

    `override` has names without versions, the first to be installed first.
    """
    priorities = {plain_name(name): len(override) - index for index, name in enumerate(override)}
    left = list(nodes)
    done: list[FeatureNode] = []
    while left:
        ready = [node for node in left if _is_ready(node, nodes, done)]
        if not ready:
            names = ", ".join(sorted(node.name for node in left))
            raise FeatureError(
                f"these features need each other in a circle: {names}",
                hint="remove one of them, or correct their `dependsOn` and `installsAfter`",
            )
        highest = max(priorities.get(node.name, 0) for node in ready)
        chosen = [node for node in ready if priorities.get(node.name, 0) == highest]
        done += sorted(chosen, key=_rank)
        left = [node for node in left if node not in chosen]
    return done


def _is_ready(node: FeatureNode, nodes: Sequence[FeatureNode], done: Sequence[FeatureNode]) -> bool:
    """Whether all that a feature needs is installed, and all of what it comes after, if that is installed too."""
    soft = [
        other
        for other in nodes
        if other is not node and any(_is_named(other, name) for name in node.feature.metadata.installs_after)
    ]
    return all(other in done for other in (*node.needs, *soft))


def _is_named(node: FeatureNode, name: str) -> bool:
    """Whether a feature has this name without a version, or had it before it was renamed."""
    namespace = node.name.rpartition("/")[0]
    names = {node.name, *(f"{namespace}/{old.lower()}" for old in node.feature.metadata.legacy_ids)}
    return plain_name(name) in names


def plain_name(name: str) -> str:
    """Write a name as references have it; only those of registries are without case."""
    return name.rstrip("/") if name.startswith("./") else name.lower()


def _rank(node: FeatureNode) -> tuple[object, ...]:
    """Sort by name, then from the oldest to the newest version, then by options, most first, then by content."""
    options = sorted((name, str(value).lower()) for name, value in node.options.items())
    keys = [name for name, _ in options]
    values = [value for _, value in options]
    return (node.name, node.feature.reference.age, -len(options), keys, values, node.feature.digest)
