"""Access of browsers to services: grants, the routes in HAProxy, and the tunnels behind them.

A grant has a route in HAProxy exactly while its service is ready. Requests of other grants come to berth-web, which
then opens the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import secrets
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol, Self

from broker.errors import BerthError, ControllerUnavailableError, TooManyError
from broker.schema.web import MAX_CHECKED
from broker.web.grants import Grant
from broker.web.haproxy_config import GrantRoute
from broker.web.master_socket import HaproxyCommandError
from broker.web.service_channel import ServiceReport
from broker.web.session_link import DoorSource, SessionLink

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from broker.schema.web import EndedVisits, VisitAnswer
    from broker.web.grants import GrantStore
    from broker.web.haproxy import Haproxy
    from broker.web.settings import WebProcessSettings
    from broker.web.tunnel import Tunnel, WebKey

EXPIRY_S = 1.0
"""Time between two looks for grants that have expired."""
CHECK_S = 60.0
"""Time between two questions to the controller which visits are valid."""
CHECK_RETRY_S = 2.0
IDLE_CHECK_S = 10.0
RETRY_S = 2.0
"""Time for which a service that did not become ready is not opened again."""

MAX_GRANTS = 20_000
"""Some 10 MB in the file; HAProxy has a server for each that is in use."""

log = logging.getLogger(__name__)


class VisitAuthority(DoorSource, Protocol):
    """The controller, as far as access needs it."""

    async def valid_visits(self, visit_ids: list[str]) -> set[str]:
        """Return those of the visits that are valid; ControllerUnavailableError without an answer."""


class OpenService:
    """A service of a session, from the first request for it until its end."""

    def __init__(self, session_id: str, name: str) -> None:
        self.session_id = session_id
        self.report = ServiceReport(name)
        self.error: BerthError | None = None
        """Why the service is not open, and will not be without another request."""
        self.retry_at: float | None = None
        """When a request may open it again: it has ended."""
        self.ready = asyncio.Event()
        self.was_ready = False
        self.socket: Path | None = None
        self.servers: dict[str, str] = {}
        """HAProxy's servers by the keys of their grants."""
        self.total = 0
        """Requests so far, as HAProxy counts them."""
        self.used_at = time.monotonic()
        self.task: asyncio.Task[None] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.session_id, self.report.service


class BrowserAccess:
    """An async context manager, whose tasks end grants and tunnels in time."""

    def __init__(
        self,
        settings: WebProcessSettings,
        haproxy: Haproxy,
        controller: VisitAuthority,
        grants: GrantStore,
        key: WebKey,
    ) -> None:
        self._settings = settings
        self._haproxy = haproxy
        self._controller = controller
        self._grants = grants
        self._key = key
        self._services: dict[tuple[str, str], OpenService] = {}
        self._links: dict[str, SessionLink] = {}
        self._numbers = itertools.count(1)
        self._routes = asyncio.Lock()
        """Held while routes are added or removed, so that none is added for a grant that has just ended."""
        self._checked = asyncio.Event()
        """Set when the controller has confirmed the grants of an earlier run."""
        self._tasks: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()
        """Set if one of the tasks has failed: then nothing ends in time any more, and the process must end."""

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(each()) for each in (self._expire, self._check_visits, self._close_idle)]
        for task in self._tasks:
            task.add_done_callback(self._note_end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session_id in {each.session_id for each in self._services.values()}:
            await self._close_session(session_id)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("berth-web cannot end visits in time", exc_info=task.exception())
            self.failed.set()

    def grant(self, key: str) -> Grant | None:
        """Return the grant with this key, if it is valid."""
        grant = self._grants.get(key)
        return grant if grant is not None and grant.visit.expires_at > time.time() else None

    def begin(self, visit: VisitAnswer) -> tuple[Grant, str]:
        """Make the grant of a visit; return it with its cookie. TooManyError if there are MAX_GRANTS."""
        if len(self._grants) >= MAX_GRANTS:
            raise TooManyError("too many services are open in browsers", hint="tell the site's administrators")
        cookie = secrets.token_urlsafe(32)
        grant = Grant(key=f"{hashlib.sha256(cookie.encode()).hexdigest()}@{visit.host}", visit=visit)
        self._grants.add(grant)
        log.info("visit began user=%s owner=%s session=%s service=%s", *_names(visit))
        return grant, cookie

    async def open(self, grant: Grant, timeout_s: float) -> OpenService:
        """Open the service of a grant, and return it when it is ready and routed, has failed, or after `timeout_s`."""
        service = self._services.get(grant.service)
        if service is None or (service.retry_at is not None and time.monotonic() >= service.retry_at):
            service = self._services[grant.service] = OpenService(*grant.service)
            service.task = asyncio.create_task(self._serve(service, grant.visit))
        ready = asyncio.create_task(service.ready.wait())
        try:
            ends = {ready} if service.task is None else {ready, service.task}
            await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if service.ready.is_set():
            await self._add_routes(service, [grant])
        return service

    async def close(self, ended: EndedVisits) -> None:
        """End the grants of these visits and delegations. On return, all of their connections are closed."""
        await self._end(self._grants.ended(ended))

    async def end(self, grant: Grant) -> None:
        """End one grant, and close its connections."""
        await self._end([grant])

    async def _end(self, grants: list[Grant]) -> None:
        if not grants:
            return
        self._grants.remove(grants)
        for grant in grants:
            log.info("visit ended user=%s owner=%s session=%s service=%s", *_names(grant.visit))
        async with self._routes:
            servers = [
                service.servers.pop(grant.key)
                for grant in grants
                if (service := self._services.get(grant.service)) is not None and grant.key in service.servers
            ]
            await self._haproxy.remove(servers)
        for session_id in {grant.visit.session_id for grant in grants}:
            if not any(grant.visit.session_id == session_id for grant in self._grants):
                await self._close_session(session_id)

    async def _serve(self, service: OpenService, visit: VisitAnswer) -> None:
        """Open a service and keep it open until it, the tunnel or this task ends."""
        try:
            await self._checked.wait()
            link = self._links.setdefault(service.session_id, self._new_link())
            tunnel = await link.connect(visit.secret)
            async with aclosing(tunnel.follow(service.report.service)) as reports:
                async for report in reports:
                    service.report = report
                    await self._follow(service, tunnel)
            service.error = _end_of(service.report)
        except BerthError as error:
            service.error = error
        finally:
            service.retry_at = time.monotonic() + (0 if service.was_ready else RETRY_S)
            await self._remove_routes(service)

    def _new_link(self) -> SessionLink:
        return SessionLink(self._settings.tunnels / str(next(self._numbers)), self._key, self._controller)

    async def _follow(self, service: OpenService, tunnel: Tunnel) -> None:
        """Add or remove the routes of a service when its state has changed."""
        is_ready = service.report.state == "ready"
        if is_ready and not service.ready.is_set():
            service.socket = await tunnel.forward(service.report.service, service.report.socket)
            await self._add_routes(service, self._grants.of_service(service.key))
            service.used_at = time.monotonic()
            service.ready.set()
            service.was_ready = True
        elif not is_ready and service.ready.is_set():
            await self._remove_routes(service)

    async def _add_routes(self, service: OpenService, grants: Iterable[Grant]) -> None:
        """Add routes of those grants that are valid and have none."""
        async with self._routes:
            for grant in grants:
                if self.grant(grant.key) is None or grant.key in service.servers or service.socket is None:
                    continue
                server = f"s{next(self._numbers)}"
                service.servers[grant.key] = server
                await self._haproxy.add(GrantRoute(grant.key, server, service.socket))

    async def _remove_routes(self, service: OpenService) -> None:
        service.ready.clear()
        async with self._routes:
            service.socket = None
            servers = list(service.servers.values())
            service.servers.clear()
            await self._haproxy.remove(servers)

    async def _close_session(self, session_id: str) -> None:
        """Close the tunnel to a session, and all that is open through it."""
        services = [each for each in self._services.values() if each.session_id == session_id]
        for service in services:
            if service.task is not None:
                service.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await service.task
            if self._services.get(service.key) is service:
                del self._services[service.key]
        link = self._links.pop(session_id, None)
        if link is not None:
            await link.close()

    async def _expire(self) -> None:
        while True:
            await self._end(self._grants.expired(time.time()))
            await asyncio.sleep(EXPIRY_S)

    async def _check_visits(self) -> None:
        """End the visits that are no longer valid: the controller's message may have met no berth-web."""
        while True:
            try:
                grants = list(self._grants)
                for first in range(0, len(grants), MAX_CHECKED):
                    some = grants[first : first + MAX_CHECKED]
                    valid = await self._controller.valid_visits([grant.visit.id for grant in some])
                    await self._end([grant for grant in some if grant.visit.id not in valid])
            except BerthError as error:
                if not isinstance(error, ControllerUnavailableError):
                    log.warning("visits not checked error=%s hint=%s", error.message, error.hint)
                await asyncio.sleep(CHECK_RETRY_S)
                continue
            self._checked.set()
            await asyncio.sleep(CHECK_S)

    async def _close_idle(self) -> None:
        """Close the tunnels of sessions that no browser has used for a while."""
        while True:
            await asyncio.sleep(min(IDLE_CHECK_S, self._settings.idle_tunnel))
            with contextlib.suppress(HaproxyCommandError):
                await self._note_use()
            oldest = time.monotonic() - self._settings.idle_tunnel
            for session_id in list(self._links):
                services = [each for each in self._services.values() if each.session_id == session_id]
                if all(service.used_at < oldest for service in services):
                    await self._close_session(session_id)

    async def _note_use(self) -> None:
        activity = await self._haproxy.activity()
        now = time.monotonic()
        for service in self._services.values():
            found = [activity[server] for server in service.servers.values() if server in activity]
            total = sum(each.total for each in found)
            if total != service.total or any(each.current for each in found):
                service.total, service.used_at = total, now


def _names(visit: VisitAnswer) -> tuple[str, str, str, str]:
    return visit.user, visit.owner, visit.session, visit.service


def _end_of(report: ServiceReport) -> BerthError:
    """Return the error of a service whose channel has ended by itself."""
    match report.state:
        case "failed":
            return BerthError(f"{report.service} did not start", hint="its last lines say why; reload to try again")
        case "stopped":
            return BerthError(f"{report.service} has ended", hint="reload the page to start it again")
        case _:
            return BerthError("the connection to the session has ended", hint="reload the page to connect again")
