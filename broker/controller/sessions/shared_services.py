"""Check services that owners share: each must be defined now, and must not be a shell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import BerthError, ConflictError, NotFoundError, RefusedError
from broker.schema.states import END_STATES

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.registry.models import Session
    from broker.controller.sessions.added_services import AddedServices
    from profiles.recipe.service import Service

_PORT = re.compile(r"port-[1-9][0-9]{0,4}")
"""The service of a published port (broker/job/service/ports.sh), which is defined while it is published."""


class SharedServices:
    """Checks services before they are shared, and again before each visit of a guest."""

    def __init__(self, images: ImageFinder, added: AddedServices) -> None:
        self._images = images
        self._added = added

    async def check_share(self, session: Session, service: str) -> None:
        """Return if the owner can share the service; a port that is not published yet, too.

        RefusedError for a shell; NotFoundError if there is no such service; BerthError if that cannot be read now.
        """
        found = await self._find(session, service)
        if found is not None and found.shell:
            raise RefusedError(
                f"{service} of {session.name} is a shell, in which others could run any command as you",
                hint="share a service without a shell, or a port that you publish by `berth forward NAME 8000`",
            )
        if found is None and not _PORT.fullmatch(service):
            raise NotFoundError(
                f"{session.name} has no service {service}",
                hint=f"`berth services {session.name}` lists them; Berth knows one that you have added half a minute "
                "later, while the session runs",
            )

    async def check_visit(self, session: Session, service: str) -> None:
        """Return if a guest, whom the owner has granted the service, can open it now.

        ConflictError if the session neither runs nor waits: a guest does not start it. RefusedError if the service has
        become a shell; NotFoundError if it is not there; ConflictError if that cannot be read now. No message says more
        of the session.
        """
        name = session.full_name
        if session.state in END_STATES:
            raise ConflictError(
                f"{name} does not run", hint=f"{session.owner} can start it; opening {service} does not"
            )
        try:
            found = await self._find(session, service)
        except BerthError as error:
            raise ConflictError(
                f"{service} of {name} cannot be opened now", hint=f"try again in a moment, or ask {session.owner}"
            ) from error
        if found is None:
            raise NotFoundError(
                f"{name} has no service {service} now",
                hint=f"ask {session.owner}; a port is there half a minute after it was published",
            )
        if found.shell:
            raise RefusedError(f"{service} of {name} is a shell now", hint=f"only {session.owner} can open it")

    async def _find(self, session: Session, name: str) -> Service | None:
        """Return the present definition: that of the owner in place of one of the profile."""
        own = {each.service.name: each.service for each in await self._added.read(session)}
        if name in own:
            return own[name]
        try:
            image = await self._images.require_image(session.owner, *session.image.values())
        except LauncherError as error:
            raise BerthError("Berth could not read the session's profile", hint="try again in a moment") from error
        return next((each for each in image.profile.services if each.name == name), None)
