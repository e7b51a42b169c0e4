"""Find the service of an origin's host name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from broker.errors import BerthError, NotFoundError, RefusedError
from broker.names import NAME_PATTERN, SERVICE_PATTERN, USER_PATTERN
from broker.origins import service_label, split_label
from broker.schema.permissions import Permission

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.added_services import AddedServices
    from broker.origins import Origins

_PATTERNS = tuple(re.compile(pattern) for pattern in (SERVICE_PATTERN, NAME_PATTERN, USER_PATTERN))


class ServiceHosts:
    """Host names of services, as a user may open them."""

    def __init__(
        self,
        access: SessionAccess,
        registry: AsyncRegistry,
        images: ImageFinder,
        added: AddedServices,
        origins: Origins,
    ) -> None:
        self._access = access
        self._registry = registry
        self._images = images
        self._added = added
        self._origins = origins

    def host(self, session: Session, service: str) -> str:
        return self._origins.service_host(service, session.name, session.id, session.owner)

    async def find(self, user: str, host: str) -> tuple[Session, str]:
        """Return the session and the service of a host name. The session has the definitions of the user's services.

        NotFoundError if it has none that `user` may visit; the message says no more.
        """
        label = host.removesuffix(f".{self._origins.domain}")
        if label == host:
            raise _no_service(host)
        parts = split_label(label)
        found = await (self._find_hashed(user, label) if parts is None else self._find_readable(user, parts))
        if found is None or self.host(*found) != host:
            raise _no_service(host)
        await self._added.install(found[0])  # berth-web may have a connection that is older than the definition
        return found

    async def _find_readable(self, user: str, parts: tuple[str, str, str]) -> tuple[Session, str] | None:
        if not all(pattern.fullmatch(part) for pattern, part in zip(_PATTERNS, parts, strict=True)):
            return None
        service, name, owner = parts
        try:
            return await self._access.resolve(user, f"{owner}.{name}", Permission.VISIT, service), service
        except (NotFoundError, RefusedError):
            return None

    async def _find_hashed(self, user: str, label: str) -> tuple[Session, str] | None:
        """Find the service whose triple has this hash, among those that the controller knows of the user's sessions:
        the ones that their profiles declare, those that the user has added, and those with visits. Of other users'
        sessions, the services that are shared with the user.
        """
        sessions = {session.id: session for session in await self._registry.sessions_of(user)}
        for session_id, service in await self._registry.visited_services(user):
            if session_id in sessions and _has_label(sessions[session_id], service, label):
                return sessions[session_id], service
        for session in sessions.values():
            for service in (*await self._declared_names(session), *await self._added_names(session)):
                if _has_label(session, service, label):
                    return session, service
        return await self._find_shared(user, label)

    async def _find_shared(self, user: str, label: str) -> tuple[Session, str] | None:
        for session in await self._registry.shared_sessions():
            services = {each["service"] for each in session.grants if each.get("service") is not None}
            for service in services:
                if _has_label(session, service, label):
                    until = await self._access.permission_end(user, session, Permission.VISIT, service)
                    return (session, service) if until else None
        return None

    async def _declared_names(self, session: Session) -> list[str]:
        try:
            image = await self._images.require_image(session.owner, *session.image.values())
        except BerthError:
            return []
        return [service.name for service in image.profile.services]

    async def _added_names(self, session: Session) -> list[str]:
        return [each.service.name for each in await self._added.of(session)]


def _has_label(session: Session, service: str, label: str) -> bool:
    return service_label(service, session.name, session.id, session.owner) == label


def _no_service(host: str) -> NotFoundError:
    return NotFoundError(
        f"you may open no service at {host}", hint="open it from the portal, or with `berth open NAME SERVICE`"
    )
