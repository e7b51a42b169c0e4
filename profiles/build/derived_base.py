"""A base that is built first: by a Dockerfile, by the features of a dev container, or by both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from profiles.build.buildah import has_buildah
from profiles.oci.image_source import OciImage
from profiles.recipe.environment import shell_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from profiles.devcontainer.image_part import DevFeature
    from profiles.dockerfile.spec import DockerfileBuild
    from profiles.image.store import Image
    from profiles.recipe.base import Base


@dataclass(frozen=True, slots=True)
class DerivedBase:
    """A base and the steps that build it."""

    digest: str
    """`sha256:…` of all that the build reads."""
    dockerfile: DockerfileBuild | None = None
    inner: Path | Image | OciImage | None = None
    """Without a Dockerfile: the base of the features; None for a fresh Debian."""
    inner_base: Base | None = None
    """The name of `inner` in the form of a recipe's `base`."""
    features: tuple[DevFeature, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the dev container, in the form of a recipe's `environment`."""

    @property
    def is_layered(self) -> bool:
        """Whether buildah builds it, in layers that the next build finds again."""
        return self.dockerfile is not None or (
            bool(self.features) and isinstance(self.inner, OciImage) and has_buildah()
        )

    def shell_environment(self) -> str:
        """Return the variables of the features in their order, and then those of the dev container, for sh(1)."""
        of_features = [feature.environment for feature in self.features]
        return "".join(shell_lines(each, venv=False) for each in (*of_features, self.environment))


def feature_steps(features: Sequence[DevFeature]) -> list[str]:
    """Return the names of the steps that install features, all different."""
    return [f"feature {number} {each.name.rpartition('/')[2]}" for number, each in enumerate(features, start=1)]
