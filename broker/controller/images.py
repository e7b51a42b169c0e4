"""Find images for users: in the site's stores, and in a user's own store, which only the launcher opens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from broker.config.file import Mode
from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError
from broker.errors import BerthError, RefusedError, UntrustedImageError
from broker.images import published_image, require_image
from broker.launcher.arguments import OwnImageArguments
from profiles.errors import ProfilesError
from profiles.image.catalog import OWN, SITE, Catalog, Standing, split_owner
from profiles.image.channels_file import CHANNELS_FILE, RETIRED, ChannelsText
from profiles.image.own_store import AnsweredStore, StoreAnswer
from profiles.image.resolution import followed_version
from profiles.image.signature_file import SignatureFile
from profiles.image.store import PACKAGES, Stores
from profiles.image.store_reader import MAX_PACKAGES_BYTES, StoredImage
from profiles.signature.contents import CheckedContents
from profiles.userfile import read_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.models import Session
    from profiles.image.store import Image
    from profiles.signature.policy import SignaturePolicy

MAX_OWN_PROFILES = 50
"""Of a user's own profiles, so many are listed: each takes a call to the launcher."""
_ANY_PROFILE = "base"
"""The list of names comes with the answer about any profile."""

log = logging.getLogger(__name__)


class ImageFinder:
    """Finds the images of one site. In personal mode the configured stores are the user's own."""

    def __init__(self, stores: Stores, launcher: LauncherClient, mode: Mode, policy: SignaturePolicy) -> None:
        self._stores = stores
        self._launcher = launcher
        self._is_site = mode is Mode.SITE
        self._policy = policy
        self._contents = CheckedContents()

    async def find_image(self, user: str, reference: str, version: str | None) -> Image:
        """Return that version of a profile, that of a channel, or the default one, for something new.

        `reference` is NAME, site/NAME or own/NAME.

        NotFoundError if there is none; InvalidInputError if site and user have different ones; RefusedError if the
        user's own store must not be read, or the version is retired; UntrustedImageError if no session may start from
        the image.
        """
        return await self._check_trusted(await self._find_published(user, reference, version))

    async def _find_published(self, user: str, reference: str, version: str | None) -> Image:
        owner, name = split_owner(reference)
        if not self._is_site or owner == SITE:
            return await asyncio.to_thread(published_image, self._catalog(), reference, version)
        try:
            own = await self._own_store(user, name, version)
        except LauncherError as error:
            raise BerthError(
                f"Berth could not read your own store of profiles: {error.message}",
                hint=f"try again in a moment; site/{name} is found without it",
            ) from error
        return await asyncio.to_thread(published_image, self._catalog(own), reference, version)

    async def list_images(self, user: str) -> list[tuple[str, Image, Standing]]:
        """Return the images of all profiles with their owners, the oldest version of a profile first.

        Of the user's own profiles in site mode, the default versions only: the launcher reads one image in a call.
        Images that cannot be read, and retired ones, are missing.
        """
        listed = await asyncio.to_thread(_usable_images, self._catalog())
        return [*listed, *[each async for each in self._own_images(user)]] if self._is_site else listed

    async def _own_images(self, user: str) -> AsyncIterator[tuple[str, Image, Standing]]:
        try:
            names = (await self._launcher.own_image(user, OwnImageArguments(profile=_ANY_PROFILE))).names
            for name in names[:MAX_OWN_PROFILES]:
                own = await self._own_store(user, name, None)
                with contextlib.suppress(ProfilesError):
                    catalog = Catalog({OWN: Stores([own])})
                    image = catalog.find(name)
                    yield OWN, image, catalog.standings([image])[0]
        except (LauncherError, RefusedError) as error:
            log.info("own profiles not listed user=%s error=%s", user, error)

    async def require_image(self, user: str, profile: str, version: str, digest: str) -> Image:
        """Return the image with `digest`, from which a session or snapshot of this user was created.

        RefusedError if it is in no store. LauncherError if the launcher gave no clear answer.
        """
        try:
            return await asyncio.to_thread(require_image, self._catalog(), profile, version, digest)
        except RefusedError:
            if not self._is_site:
                raise
        own = await self._own_store(user, profile, version)
        return await asyncio.to_thread(require_image, self._catalog(own), profile, version, digest)

    async def require_startable(self, user: str, profile: str, version: str, digest: str) -> Image:
        """As `require_image`, for a new job. UntrustedImageError if no session may start from the image now."""
        return await self._check_trusted(await self.require_image(user, profile, version, digest))

    async def _check_trusted(self, image: Image) -> Image:
        if not self._policy.is_empty:
            await asyncio.to_thread(self._require_trusted, image)
        return image

    def _require_trusted(self, image: Image) -> None:
        """Check the signature, the size, and once after each change the content. UntrustedImageError.

        Only the user can read the SIF file of an own store in site mode: the launcher has measured its size.
        """
        owner = self.owner_of_path(str(image.path))
        is_readable = owner == SITE or not self._is_site
        try:
            size = image.path.stat().st_size if is_readable else None
            self._policy.require(image, owner, clock.now(), size)
            if is_readable and self._policy.is_required(owner):
                self._contents.require(image)
        except ProfilesError as error:
            raise UntrustedImageError(error.message, hint=error.hint) from error
        except OSError as error:
            raise UntrustedImageError(
                f"{image.path} cannot be read: {error.strerror}", hint="tell the owner of the store"
            ) from error

    async def find_followed(self, session: Session, *, follow: str | None = None) -> Image | None:
        """Return the image of the channel or version that a session follows, or of `follow`; None if there is none.

        It is looked for where the session's present image is: in the site's stores or in the user's own. RefusedError
        if that cannot be read; UntrustedImageError if no session may start from it; LauncherError without a clear
        answer.
        """
        follow = session.follow if follow is None else follow
        if not follow:
            return None
        stores = self._stores
        if self._is_site and self.owner_of(session) == OWN:
            stores = Stores([await self._own_store(session.owner, session.profile, follow)])
        try:
            image = await asyncio.to_thread(_followed_image, stores, session.profile, follow)
        except ProfilesError as error:
            raise RefusedError(error.message, hint=error.hint) from error
        return None if image is None else await self._check_trusted(image)

    def is_readable(self, session: Session) -> bool:
        """Whether the controller can read the store of the session's image without the launcher."""
        return not self._is_site or self.owner_of(session) == SITE

    async def packages(self, user: str, image: Image) -> str:
        """Return the list of an image's packages; empty if the image has none. LauncherError as `required`."""
        if self.owner_of_path(str(image.path)) == SITE or not self._is_site:
            return await asyncio.to_thread(_site_packages, image)
        arguments = OwnImageArguments(profile=image.name, version=image.version, packages=True)
        return (await self._launcher.own_image(user, arguments)).packages

    def owner_of(self, session: Session) -> str:
        """Return whose image a session has: SITE or OWN."""
        return self.owner_of_path(session.image_path)

    def owner_of_path(self, image_path: str) -> str:
        store = Path(image_path).parent.parent.parent  # <store>/<name>/<version>/image.sif
        return SITE if self._is_site and store in self._stores.paths else OWN

    def _catalog(self, own: AnsweredStore | None = None) -> Catalog:
        if not self._is_site:
            return Catalog({OWN: self._stores})
        return Catalog({SITE: self._stores} | ({} if own is None else {OWN: Stores([own])}))

    async def _own_store(self, user: str, name: str, version: str | None) -> AnsweredStore:
        """Ask the launcher for a profile of the user. RefusedError if it refuses, LauncherError if that is unclear."""
        try:
            answer = await self._launcher.own_image(user, OwnImageArguments(profile=name, version=version))
        except LauncherError as error:
            if error.unclear:
                raise
            raise RefusedError(
                f"your own store of profiles cannot be read: {error.message}",
                hint=f"site/{name} is found without it",
            ) from error
        description = answer.description
        signature = SignatureFile(answer.signature, answer.signature_problem)
        stored = None if description is None else StoredImage(description, answer.size, answer.offset, signature)
        path = Path(answer.store)
        channels = ChannelsText(path / name / CHANNELS_FILE, answer.channels, answer.channels_problem)
        found = StoreAnswer(path, answer.names, answer.versions, answer.version, stored, answer.problem, channels)
        return AnsweredStore(found, name)


def _followed_image(stores: Stores, profile: str, follow: str) -> Image | None:
    version = followed_version(stores.stores, profile, follow)
    return None if version is None else stores.exact(profile, version)


def _usable_images(catalog: Catalog) -> list[tuple[str, Image, Standing]]:
    found = [(owner, image) for owner, each in catalog.contents().items() for image in each.images]
    standings = catalog.standings([image for _, image in found])
    return [
        (owner, image, standing)
        for (owner, image), standing in zip(found, standings, strict=True)
        if standing.state is None or standing.state.state != RETIRED
    ]


def _site_packages(image: Image) -> str:
    try:
        return read_text(image.directory / PACKAGES, MAX_PACKAGES_BYTES, own=False, follow=True)
    except OSError:
        return ""  # then every package counts as added
