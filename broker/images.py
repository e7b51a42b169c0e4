"""Find the image of a session: by the version that a user requests, or by the digest that its volumes need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import InvalidInputError, NotFoundError, RefusedError
from profiles.errors import AmbiguousProfileError, DamagedImageError, ProfilesError
from profiles.image.channels_file import RETIRED

if TYPE_CHECKING:
    from profiles.image.catalog import Catalog
    from profiles.image.store import Image


def published_image(catalog: Catalog, reference: str, version: str | None) -> Image:
    """Return that version of the profile, that of a channel, or the default one, for something new.

    NotFoundError if there is none; InvalidInputError if several owners have one; RefusedError if it is damaged or
    retired.
    """
    try:
        image = catalog.find(reference, version)
    except AmbiguousProfileError as error:
        raise InvalidInputError(error.message, hint=error.hint) from error
    except DamagedImageError as error:
        raise RefusedError(error.message, hint=error.hint) from error
    except ProfilesError as error:
        raise NotFoundError(error.message, hint=error.hint) from error
    state = catalog.state_of(image)
    if state is not None and state.state == RETIRED:
        instead = catalog.replacement(image)
        hint = f"use {instead}" if instead else "`berth profile list` shows others"
        raise RefusedError(
            state.describe(f"{image.name}@{image.version}"), hint=f"{hint}; sessions that have it keep working"
        )
    return image


def require_image(catalog: Catalog, profile: str, version: str, digest: str) -> Image:
    """Return that version of the profile if it still has `digest`, with which a session or snapshot was created.

    RefusedError otherwise: the system volume's layers do not fit another image.
    """
    hint = (
        f"ask the publisher of {profile} to restore {profile}@{version}, or copy the home to another profile with "
        "`berth clone NAME NEW --profile P`"
    )
    try:
        image = catalog.find_digest(profile, version, digest)
    except ProfilesError as error:
        raise RefusedError(f"the image {profile}@{version} is not available: {error.message}", hint=hint) from error
    if image.digest != digest:
        raise RefusedError(
            f"the image of {profile}@{version} was replaced by another one; a published version must never change",
            hint=hint,
        )
    return image
