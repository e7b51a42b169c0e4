"""Find the base of a profile, and what identifies it.

What reads one kind of base is imported when there is such a base: most recipes have a Debian or a profile, and need
neither a client of registries nor the schemas of dev containers.
"""

# ruff: noqa: PLC0415 - see above, and ADR 0071

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import NoSuchImageError, ProfileError
from profiles.image.store import file_digest
from profiles.oci.registry_access import AccessTo, plain_access
from profiles.recipe.base import BaseKind
from profiles.userfile import is_file

if TYPE_CHECKING:
    from profiles.build.derived_base import DerivedBase
    from profiles.image.catalog import Catalog
    from profiles.image.store import Image
    from profiles.oci.image_source import OciImage
    from profiles.recipe.base import Base
    from profiles.recipe.spec import Profile

    FoundBase = Path | Image | OciImage | DerivedBase | None
    """A SIF file, the image of a profile, a container image, what is built first, or nothing for a fresh Debian."""


def find_base(profile: Profile, bases: Catalog, access: AccessTo = plain_access) -> FoundBase:
    """Find the base to start from; `access` says how registries are reached. Raises ProfilesError."""
    match profile.base.kind:
        case BaseKind.DOCKERFILE:
            return _dockerfile(profile)
        case BaseKind.DEVCONTAINER:
            return _devcontainer(profile.base, bases, access)
        case _:
            return _plain_base(profile.base, bases, access)


def _dockerfile(profile: Profile) -> DerivedBase:
    from profiles.build.buildah import check_buildah
    from profiles.build.derived_base import DerivedBase
    from profiles.dockerfile.spec import DockerfileBuild, dockerfile_in

    base = profile.base
    check_buildah()
    folder = base.path.resolve()
    build = DockerfileBuild(dockerfile_in(folder), folder, base.target, profile.build_args, profile.build_secrets)
    return DerivedBase(build.key(), dockerfile=build)


def _devcontainer(base: Base, bases: Catalog, access: AccessTo) -> DerivedBase:
    """Read a devcontainer.json, and find what its image is built from."""
    from profiles.build.buildah import check_buildah
    from profiles.build.derived_base import DerivedBase
    from profiles.devcontainer.config import find_dev_config, read_dev_config
    from profiles.devcontainer.feature_registry import FeatureRegistries
    from profiles.devcontainer.plan import load_image_part
    from profiles.dockerfile.spec import DockerfileBuild

    part = load_image_part(read_dev_config(find_dev_config(base.path)), FeatureRegistries(access))
    if isinstance(part.base, DockerfileBuild):
        check_buildah()
        key = f"sha256:{part.key('')}"
        return DerivedBase(key, dockerfile=part.base, features=tuple(part.features), environment=part.environment)
    if part.base.kind.is_derived:
        raise ProfileError(f"its base cannot be {part.base.kind}:", file=base.path, hint="use `build.dockerfile`")
    inner = _plain_base(part.base, bases, access)
    key = f"sha256:{part.key(base_digest(inner))}"
    return DerivedBase(
        key, inner=inner, inner_base=part.base, features=tuple(part.features), environment=part.environment
    )


def _plain_base(base: Base, bases: Catalog, access: AccessTo) -> Path | Image | OciImage | None:
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
        case _:
            from profiles.build.container_image import find_container_image

            return find_container_image(base, access)


def base_digest(base: FoundBase) -> str:
    """Return `sha256:…` of what a base is; empty for a fresh Debian, whose packages change every day."""
    if isinstance(base, Path):
        return file_digest(base)
    return base.digest if base is not None else ""
