"""Find the image of a session: by the version that a user names, or by the digest that its volumes need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import NotFoundError, RefusedError
from profiles.errors import ProfilesError

if TYPE_CHECKING:
    from profiles.image.store import Image, Stores


def published(stores: Stores, profile: str, version: str | None) -> Image:
    """That version of the profile, or its newest; NotFoundError if there is none."""
    try:
        return stores.find(profile, version)
    except ProfilesError as error:
        raise NotFoundError(error.message, hint=error.hint) from error


def image_with(stores: Stores, profile: str, version: str, digest: str) -> Image:
    """That version of the profile, if its digest is still the one that the session, or a snapshot, was made with.

    RefusedError otherwise: a system volume over another image would be neither the one nor the other.
    """
    hint = (
        f"ask who publishes {profile} to put {profile}@{version} back; `berth clone NAME NEW --profile P` takes the "
        "home to another profile"
    )
    try:
        image = stores.find(profile, version)
    except ProfilesError as error:
        raise RefusedError(f"the image {profile}@{version} is not there: {error.message}", hint=hint) from error
    if image.digest != digest:
        raise RefusedError(
            f"the image of {profile}@{version} is not the one that this was made with; a version must never change",
            hint=hint,
        )
    return image
