"""The version of a recipe that is published already, if a build would read the same again.

This imports little, since `berth profile build` of an unchanged recipe ends here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiles.build.bases import base_digest, find_base
from profiles.build.build_key import build_key
from profiles.errors import DamagedImageError, ImageExistsError
from profiles.image.catalog import OWN, Catalog
from profiles.image.store import Stores
from profiles.oci.registry_access import plain_access
from profiles.recipe.resources import any_option
from profiles.recipe.spec import load_profile

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.image.store import Image, Store
    from profiles.oci.registry_access import AccessTo
    from profiles.recipe.resources import OptionCheck
    from profiles.recipe.spec import Profile


def unchanged_image(
    recipe: Path,
    *,
    store: Store,
    bases: Catalog | None = None,
    check_option: OptionCheck = any_option,
    access: AccessTo = plain_access,
) -> Image | None:
    """Return the image that a build of the file `recipe` would answer with; None if it would build one.

    The arguments are those of `build`, and so are the exceptions.
    """
    profile = load_profile(recipe, check_option)
    if not is_version_taken(profile, store):
        return None
    return find_published(profile, store, bases or catalog_with(store), access)


def catalog_with(store: Store) -> Catalog:
    """Return a catalog of one store, as the user's own."""
    return Catalog({OWN: Stores([store])})


def is_version_taken(profile: Profile, store: Store) -> bool:
    """Whether the store has the recipe's version, from whatever recipe."""
    return (store.path / profile.name / profile.version).exists()


def find_published(profile: Profile, store: Store, bases: Catalog, access: AccessTo) -> Image:
    """Return the published image if a build of the recipe would read the same. ImageExistsError if it would not."""
    try:
        image = store.read(profile.name, profile.version)
    except DamagedImageError:
        store.check_free(profile.name, profile.version)
        raise
    if not image.build_key:
        store.check_free(profile.name, profile.version)
    if build_key(profile, base_digest(find_base(profile, bases, access))) != image.build_key:
        raise ImageExistsError(
            f"{profile.name}@{profile.version} is published in {store.path} already, and the recipe, its base or a "
            "file of it has changed since",
            hint="versions are never overwritten: raise the profile's version",
        )
    return image
