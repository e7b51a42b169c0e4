"""All profiles that one user can start: those of the site and the user's own.

A profile's name may say its owner: `site/NAME` or `own/NAME`. A name without an owner means the profile that there is.
If both have it, with different images, the name is refused: neither a site's new profile nor a user's may change what
the other name means (ADR 131).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.errors import AmbiguousProfileError, DamagedImageError, NoSuchImageError, ProfilesError
from profiles.image.channels_file import CHANNELS
from profiles.image.resolution import resolve_version
from profiles.image.store import Image, StoreContents, Stores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from profiles.image.channels_file import VersionState
    from profiles.image.store import Store

SITE, OWN = "site", "own"
OWNERS = (SITE, OWN)


def split_owner(reference: str) -> tuple[str, str]:
    """Return the owner, empty if none is said, and the name of `NAME`, `site/NAME` or `own/NAME`."""
    owner, slash, name = reference.partition("/")
    return (owner, name) if slash and owner in OWNERS else ("", reference)


@dataclass(frozen=True, slots=True)
class Standing:
    """The place of one version in the channels of its profile."""

    channels: list[str]
    """The channels that name it."""
    state: VersionState | None
    """None unless it is deprecated or retired."""
    is_default: bool
    """Whether the name alone means it."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The stores of each owner. In personal mode there is only OWN."""

    stores: Mapping[str, Stores]

    def find(self, reference: str, version: str | None = None) -> Image:
        """Return this version of a profile, that of a channel, or the one that the name alone means, for each owner.

        Raises NoSuchImageError with the alternatives, AmbiguousProfileError, and DamagedImageError.
        """
        owner, name = split_owner(reference)
        if owner:
            return self._of_owner(owner, name, version)
        found: dict[str, Image] = {}
        damaged: dict[str, DamagedImageError] = {}
        for each, stores in self.stores.items():
            try:
                found[each] = stores.find(name, version)
            except NoSuchImageError:
                continue
            except DamagedImageError as error:
                damaged[each] = error
        if damaged:
            raise _with_way_out(next(iter(damaged.values())), name, version, [*found])
        if len({image.digest for image in found.values()}) > 1:
            raise _ambiguity(name, version)
        for image in found.values():
            return image
        return self._all().find(name, version)  # raises with the alternatives of all owners

    def find_digest(self, name: str, version: str, digest: str) -> Image:
        """Return that version with `digest` of either owner, or else an image of another digest. Raises as `find`.

        A session that was made from an image needs exactly that one, and the digest says which.
        """
        other: Image | None = None
        problem: NoSuchImageError | DamagedImageError | None = None
        for stores in self.stores.values():
            try:
                image = stores.exact(name, version)
            except (NoSuchImageError, DamagedImageError) as error:
                problem = error if problem is None or isinstance(error, DamagedImageError) else problem
                continue
            if image.digest == digest:
                return image
            other = other or image
        if other is not None and not isinstance(problem, DamagedImageError):
            return other
        raise problem or NoSuchImageError(f"no profile is called {name}")

    def state_of(self, image: Image) -> VersionState | None:
        """Return the state of an image in one of these stores; None also if the channels cannot be read."""
        place = image.directory.parent.parent
        for stores in self.stores.values():
            for store in stores.stores:
                if store.path == place:
                    with contextlib.suppress(DamagedImageError):
                        return store.channels(image.name).states.get(image.version)
        return None

    def standings(self, images: Sequence[Image]) -> list[Standing]:
        """Return what the channels say of images in these stores; nothing where they cannot be read."""
        known: dict[tuple[str, str], dict[str | None, str | None]] = {}
        found: list[Standing] = []
        for image in images:
            owner = self.owner_of(image)
            if (owner, image.name) not in known:
                stores = self.stores[owner].stores if owner else []
                meant = {wanted: _try_resolve(stores, image.name, wanted) for wanted in (*CHANNELS, None)}
                known[owner, image.name] = meant
            meant = known[owner, image.name]
            channels = [channel for channel in CHANNELS if meant[channel] == image.version]
            found.append(Standing(channels, self.state_of(image), meant[None] == image.version))
        return found

    def replacement(self, image: Image) -> str:
        """Return the reference of a version to use instead of this one; empty if there is none."""
        owner = self.owner_of(image)
        state = self.state_of(image)
        instead = state.instead if state is not None else ""
        version = instead or (_try_resolve(self.stores[owner].stores, image.name, None) if owner else None)
        return "" if version in {None, image.version} else f"{image.name}@{version}"

    def holders(self, reference: str, version: str) -> list[tuple[str, Store]]:
        """Return the stores that list this version, also if it is damaged, with their owners."""
        owner, name = split_owner(reference)
        found: list[tuple[str, Store]] = []
        for each, stores in self.stores.items():
            for store in stores.stores if owner in {"", each} else []:
                with contextlib.suppress(DamagedImageError):
                    found += [(each, store)] if version in store.versions(name) else []
        return found

    def contents(self) -> dict[str, StoreContents]:
        """Read all stores, by owner."""
        return {owner: stores.contents() for owner, stores in self.stores.items()}

    def owner_of(self, image: Image) -> str:
        """Return the owner of an image; empty if it is in none of these stores."""
        return self.owner_at(image.directory.parent.parent)

    def owner_at(self, store: Path) -> str:
        """Return the owner of a store; empty if it is none of these."""
        return next((owner for owner, stores in self.stores.items() if store in stores.paths), "")

    def _of_owner(self, owner: str, name: str, version: str | None) -> Image:
        if owner not in self.stores:
            if owner == OWN:
                raise NoSuchImageError(f"there is no store of your own for own/{name}")
            raise NoSuchImageError(f"there is no site with a profile site/{name}", hint=f"leave out `site/`: {name}")
        return self.stores[owner].find(name, version)

    def _all(self) -> Stores:
        return Stores([store for stores in self.stores.values() for store in stores.stores])


def _try_resolve(stores: Sequence[Store], name: str, wanted: str | None) -> str | None:
    with contextlib.suppress(ProfilesError):
        version = resolve_version(stores, name, wanted)
        return None if wanted is not None and version == wanted else version
    return None


def _at(version: str | None) -> str:
    return f"@{version}" if version else ""


def _ambiguity(name: str, version: str | None) -> AmbiguousProfileError:
    at = _at(version)
    return AmbiguousProfileError(
        f"the site and you each have a profile {name}{at}",
        hint=f"say which: site/{name}{at} or own/{name}{at}",
    )


def _with_way_out(error: DamagedImageError, name: str, version: str | None, others: list[str]) -> DamagedImageError:
    """Return the error with the name of the profile that the other owner has."""
    if not others:
        return error
    return DamagedImageError(
        error.message, hint=f"{error.hint}; {others[0]}/{name}{_at(version)} is the {others[0]} profile"
    )
