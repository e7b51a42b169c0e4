"""The digest of a base: what a build key has for the content that a recipe only names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiles.dockerfile.content import content_digest
from profiles.errors import NoSuchFileError
from profiles.image.store import file_digest
from profiles.recipe.base import BaseKind
from profiles.userfile import is_file

if TYPE_CHECKING:
    from profiles.image.catalog import Catalog
    from profiles.recipe.base import Base


def base_content(base: Base, bases: Catalog) -> str:
    """Return the digest of a base that is on this machine; empty for one that is fetched by its name.

    Raises ProfilesError if it is not there.
    """
    if base.kind is BaseKind.PROFILE:
        return bases.find(base.reference, base.version).digest
    if not base.kind.is_path:
        return ""
    if base.path.is_dir():
        return content_digest(base.path)
    if not is_file(base.path):
        raise NoSuchFileError(f"the base {base.path} is not there", hint="its path is relative to devcontainer.json")
    return file_digest(base.path)
