"""Find the base of a profile, and what identifies it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from profiles.build.container_image import AccessTo, find_container_image, plain_access
from profiles.errors import NoSuchImageError
from profiles.image.store import Image, file_digest
from profiles.oci.image_source import OciImage
from profiles.recipe.base import BaseKind
from profiles.userfile import is_file

if TYPE_CHECKING:
    from profiles.image.catalog import Catalog
    from profiles.recipe.spec import Profile

FoundBase = Path | Image | OciImage | None
"""A SIF file, the image of a profile, a container image, or nothing for a fresh Debian."""


def find_base(profile: Profile, bases: Catalog, access: AccessTo = plain_access) -> FoundBase:
    """Find the base to start from. Raises ProfilesError."""
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
        case _:
            return find_container_image(base, access)


def base_digest(base: FoundBase) -> str:
    """Return `sha256:…` of what a base is; empty for a fresh Debian, whose packages change every day."""
    if isinstance(base, Path):
        return file_digest(base)
    return base.digest if base is not None else ""
