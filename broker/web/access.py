"""Access of browsers to services: the gate that creates, finds and ends grants, and opens their services."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from typing import TYPE_CHECKING, Self

from broker.errors import RefusedError
from broker.web import metrics
from broker.web.grant_validity import GrantValidity
from broker.web.grants import Grant
from broker.web.recently_ended import RecentlyEnded
from broker.web.service_connections import ServiceConnections

if TYPE_CHECKING:
    from collections import Counter
    from types import TracebackType

    from broker.schema.web import EndedVisits, VisitAnswer
    from broker.web.controller_client import WebControllerClient
    from broker.web.grants import GrantStore
    from broker.web.haproxy import Haproxy
    from broker.web.service_connections import ServiceConnection
    from broker.web.settings import WebProcessSettings
    from broker.web.tunnel import WebKey

log = logging.getLogger(__name__)


class BrowserAccess:
    """An async context manager, whose tasks end grants and tunnels in time."""

    def __init__(
        self,
        settings: WebProcessSettings,
        haproxy: Haproxy,
        controller: WebControllerClient,
        grants: GrantStore,
        key: WebKey,
    ) -> None:
        self._grants = grants
        self._recently_ended = RecentlyEnded()
        self._connections = ServiceConnections(settings, haproxy, controller, grants, key)
        self._validity = GrantValidity(grants, controller, self.end)
        self._tasks: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()
        """Set if one of the tasks has failed: then nothing ends in time any more, and the process must end."""

    async def __aenter__(self) -> Self:
        loops = (self._validity.watch_expiry, self._validity.watch_visits, self._connections.watch_idle)
        self._tasks = [asyncio.create_task(loop()) for loop in loops]
        for task in self._tasks:
            task.add_done_callback(self._note_end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connections.close()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("berth-web cannot end visits in time", exc_info=task.exception())
            self.failed.set()

    @property
    def grant_count(self) -> int:
        return len(self._grants)

    @property
    def tunnel_count(self) -> int:
        """The number of connections to sessions that are open."""
        return self._connections.tunnel_count

    def service_states(self) -> Counter[str]:
        """Return how many services are in each state."""
        return self._connections.states()

    def find_grant(self, key: str) -> Grant | None:
        """Return the grant with this key, if it is valid."""
        return self._grants.get(key)

    async def create_grant(self, visit: VisitAnswer) -> tuple[Grant, str]:
        """Create the grant of a visit, and end the browser's earlier grant of the service. Return it with its cookie.

        RefusedError if the visit has ended meanwhile; TooManyError if there are too many grants.
        """
        cookie = secrets.token_urlsafe(32)
        grant = Grant(key=f"{hashlib.sha256(cookie.encode()).hexdigest()}@{visit.host}", visit=visit)
        earlier = self._grants.of_service(grant.service)
        await self.end([each for each in earlier if each.visit.delegation_id == visit.delegation_id])
        if visit in self._recently_ended:
            raise RefusedError("this browser was logged out meanwhile", hint="log in again")
        self._grants.add(grant)
        metrics.VISITS.inc()
        log.info("visit began user=%s owner=%s session=%s service=%s", *_names(visit))
        return grant, cookie

    async def open(self, grant: Grant, timeout_s: float) -> ServiceConnection:
        """Open the service of a grant, and return it when it is ready and routed, has failed, or after `timeout_s`.

        TooManyError if too many services are open.
        """
        return await self._connections.open(grant, timeout_s)

    async def close(self, ended: EndedVisits) -> None:
        """End the grants of these visits and delegations. On return, all of their connections are closed."""
        self._recently_ended.add(ended)
        with metrics.REVOCATION_SECONDS.time():
            await self.end(self._grants.find_ended(ended))

    async def end(self, grants: list[Grant]) -> None:
        """End grants, and close their connections. If it raises, those that have connections remain to be ended."""
        if not grants:
            return
        await self._connections.remove(grants)
        for grant in grants:
            log.info("visit ended user=%s owner=%s session=%s service=%s", *_names(grant.visit))


def _names(visit: VisitAnswer) -> tuple[str, str, str, str]:
    return visit.user, visit.owner, visit.session, visit.service
