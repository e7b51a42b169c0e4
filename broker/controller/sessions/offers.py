"""Lists to choose from: profiles for new sessions, and services of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import BerthError
from broker.schema.permissions import Permission
from broker.schema.profiles import ProfileList, ProfileView
from broker.schema.services import SessionServices, SessionServiceView

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.added_services import AddedServices
    from profiles.recipe.service import Service


class Offers:
    """Lists for the portal, and for links to services. Otherwise, the command line reads profiles and services itself,
    as the user.
    """

    def __init__(
        self, *, access: SessionAccess, registry: AsyncRegistry, images: ImageFinder, added: AddedServices
    ) -> None:
        self._access = access
        self._registry = registry
        self._images = images
        self._added = added

    async def profiles(self, user: str) -> ProfileList:
        """Return the profiles that the user can start: all versions of the site's, and the user's own defaults."""
        return ProfileList(
            profiles=[
                ProfileView(
                    name=image.name,
                    version=image.version,
                    owner=owner,
                    description=image.profile.description,
                    newest=standing.is_default,
                    channels=standing.channels,
                    note=standing.state.describe(f"{image.name}@{image.version}") if standing.state else "",
                )
                for owner, image, standing in await self._images.list_images(user)
            ]
        )

    async def services(self, user: str, name: str) -> SessionServices:
        """Return the services that the profile of the session's image declares, and then those that the user has added.

        One that was opened in a browser, and that the session has not reported, has only its name.

        NotFoundError without the session; RefusedError without its image.
        """
        session = await self._access.resolve(user, name, Permission.VISIT)
        try:
            image = await self._images.require_image(session.owner, *session.image.values())
        except LauncherError as error:
            raise BerthError(
                f"Berth could not read the profile of {name}: {error.message}", hint="try again in a moment"
            ) from error
        found = {each.name: _view(each) for each in image.profile.services}
        found |= {each.service.name: _view(each.service, added=True) for each in await self._added.of(session)}
        visited = sorted(
            service
            for session_id, service in await self._registry.visited_services(user)
            if session_id == session.id and service not in found
        )
        others = (SessionServiceView(name=service, added=True) for service in visited)
        return SessionServices(services=[*found.values(), *others])


def _view(service: Service, *, added: bool = False) -> SessionServiceView:
    return SessionServiceView(
        name=service.name, title=service.title, description=service.description, icon=service.icon, added=added
    )
