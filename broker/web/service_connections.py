"""Connections to services: each is open from the first request for the service until the service's or session's end.

A grant has a route in HAProxy exactly while its service is ready. Requests of other grants come to berth-web, which
then opens the service.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, NoReturn

from broker.errors import BerthError, TooManyError
from broker.schema.service_report import ServiceReport
from broker.service.lasting_states import LastingStates
from broker.web.haproxy_config import GrantRoute
from broker.web.repetition import repeat
from broker.web.service_channel import end_error
from broker.web.session_link import SessionLink

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from broker.schema.web import VisitAnswer
    from broker.web.controller_client import WebControllerClient
    from broker.web.grants import Grant, GrantStore
    from broker.web.haproxy import Haproxy
    from broker.web.settings import WebProcessSettings
    from broker.web.tunnel import Tunnel, WebKey

IDLE_CHECK_S = 10.0
RETRY_S = 2.0
"""Time for which a service that did not become ready is not opened again."""
UNREADY_PAUSE_S = 1.0
"""Time for which the report on a service that has become unready waits: each change of its routes costs processes."""
MAX_PER_SESSION = 32
"""Services of one session that are open at once: each has a channel, and sshd allows a connection so many
(`MaxSessions` of the session's sshd).
"""
MAX_PER_USER = 64
"""The same of one user, in all sessions."""

log = logging.getLogger(__name__)


class ServiceConnection:
    """The way to one service of a session, and the state of the service."""

    def __init__(self, visit: VisitAnswer) -> None:
        """`visit`: the one that opens it."""
        self.session_id = visit.session_id
        self.user = visit.user
        self.link = visit.session_id, "" if visit.user == visit.owner else visit.service
        """The key of its tunnels: those of a guest reach one service only, those of the owner all of a session."""
        self.report = ServiceReport(visit.service)
        self.error: BerthError | None = None
        """The reason for which the service is not open, and stays closed until another request."""
        self.retry_at: float | None = None
        """The time from which a request may open it again, once it has ended."""
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

    @property
    def may_retry(self) -> bool:
        return self.retry_at is not None and time.monotonic() >= self.retry_at


class ServiceConnections:
    """All connections, and the tunnels and routes that they use."""

    def __init__(
        self,
        settings: WebProcessSettings,
        haproxy: Haproxy,
        controller: WebControllerClient,
        grants: GrantStore,
        key: WebKey,
    ) -> None:
        self._settings = settings
        self._haproxy = haproxy
        self._controller = controller
        self._grants = grants
        self._key = key
        self._connections: dict[tuple[str, str], ServiceConnection] = {}
        self._links: dict[tuple[str, str], SessionLink] = {}
        """By ServiceConnection.link."""
        self._numbers = itertools.count(1)
        self._routes = asyncio.Lock()
        """Held while routes are added or removed, so that none is added for a grant that has just ended."""
        self._states = LastingStates(log)

    @property
    def tunnel_count(self) -> int:
        """The number of tunnels that are open."""
        return sum(link.tunnel_count for link in self._links.values())

    def states(self) -> Counter[str]:
        """Return how many services are in each state."""
        return Counter(each.report.state for each in self._connections.values())

    async def open(self, grant: Grant, timeout_s: float) -> ServiceConnection:
        """Open a grant's service; return it when it is ready and routed, when it has failed, or after `timeout_s`.

        TooManyError if too many services of the session or the user are open.
        """
        connection = self._connections.get(grant.service)
        if connection is None or connection.may_retry:
            self._check_limits(grant.visit)
            connection = self._connections[grant.service] = ServiceConnection(grant.visit)
            connection.task = asyncio.create_task(self._serve(connection, grant.visit))
        ready = asyncio.create_task(connection.ready.wait())
        try:
            ends = {ready} if connection.task is None else {ready, connection.task}
            await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if connection.ready.is_set():
            await self._add_routes(connection, [grant])
        return connection

    async def remove(self, grants: list[Grant]) -> None:
        """Remove grants and their routes, and close the tunnels of sessions without grants.

        On return, all connections of browsers with these grants are closed. If it raises, the grants remain.
        """
        keys = {grant.key for grant in grants}
        async with self._routes:
            routed = [each for each in self._connections.values() if keys & each.servers.keys()]
            await self._haproxy.remove([each.servers[key] for each in routed for key in keys & each.servers.keys()])
            for each in routed:
                each.servers = {key: server for key, server in each.servers.items() if key not in keys}
            self._grants.remove(grants)
        present = {grant.visit.session_id for grant in self._grants}
        await self._close_sessions({grant.visit.session_id for grant in grants} - present)

    async def close(self) -> None:
        """Close all tunnels. Grants remain."""
        await self._close_sessions({session_id for session_id, _ in (*self._connections, *self._links)})

    async def watch_idle(self) -> NoReturn:
        """Close the tunnels of sessions that no browser has used for a while."""
        interval_s = min(IDLE_CHECK_S, self._settings.idle_tunnel)
        await repeat("check for idle tunnels", self._close_idle, interval_s, interval_s)

    def _check_limits(self, visit: VisitAnswer) -> None:
        """Raise TooManyError if a further service is one too many. Forget those of the session that have ended."""
        for key in [key for key, each in self._connections.items() if key[0] == visit.session_id and each.may_retry]:
            del self._connections[key]
        open_ones = [each for each in self._connections.values() if each.retry_at is None]
        if sum(each.session_id == visit.session_id for each in open_ones) >= MAX_PER_SESSION:
            raise TooManyError(
                f"{MAX_PER_SESSION} services of {visit.session} are open, as many as are allowed",
                hint="end one of them in the session: it does not count then",
            )
        if sum(each.user == visit.user for each in open_ones) >= MAX_PER_USER:
            raise TooManyError(
                f"you have {MAX_PER_USER} services open, as many as are allowed",
                hint="end one of them in the session: it does not count then",
            )

    async def _serve(self, connection: ServiceConnection, visit: VisitAnswer) -> None:
        """Open a service and keep it open until it, the tunnel or this task ends."""
        name = f"{visit.owner}/{visit.session}/{visit.service}"
        try:
            await self._grants.confirmed.wait()
            await self._follow(connection, visit)
            connection.error = end_error(connection.report)
            self._states.end(name)
        except BerthError as error:
            connection.error = error
        except Exception as error:  # noqa: BLE001 - such as no process or no space left: the user gets a page
            self._states.report(name, logging.ERROR, f"service not opened service={name} error={error!r}", cause=error)
            connection.error = BerthError(
                "berth-web cannot connect to the session", hint="tell the site's administrators: its log says why"
            )
        finally:
            try:
                await self._remove_routes(connection)
            finally:  # only now another connection may take its place
                connection.retry_at = time.monotonic() + (0 if connection.was_ready else RETRY_S)

    async def _follow(self, connection: ServiceConnection, visit: VisitAnswer) -> None:
        """Start a service and follow it until its channel ends. A tunnel that may not reach its socket is replaced."""
        link = self._link(connection.link)
        unfit: Tunnel | None = None
        while True:
            async with (
                link.use(visit.secret, unfit) as tunnel,
                aclosing(tunnel.follow(connection.report.service)) as reports,
            ):
                async for report in reports:
                    connection.report = report
                    if report.needs_new_tunnel:
                        break
                    await self._update_routes(connection, tunnel)
                else:
                    return
            if unfit is not None:
                raise BerthError(
                    f"the session does not let browsers reach {connection.report.service}", hint="restart the session"
                )
            unfit = tunnel

    def _link(self, key: tuple[str, str]) -> SessionLink:
        if key not in self._links:
            directory = self._settings.tunnels / str(next(self._numbers))
            self._links[key] = SessionLink(directory, self._key, self._controller)
        return self._links[key]

    async def _update_routes(self, connection: ServiceConnection, tunnel: Tunnel) -> None:
        """Add or remove the routes of a service when its state has changed."""
        is_ready = connection.report.state == "ready"
        if is_ready and not connection.ready.is_set():
            connection.socket = await tunnel.forward(connection.report.service, connection.report.socket)
            await self._add_routes(connection, self._grants.of_service(connection.key))
            connection.used_at = time.monotonic()
            connection.ready.set()
            connection.was_ready = True
        elif not is_ready and connection.ready.is_set():
            await self._remove_routes(connection)
            await asyncio.sleep(UNREADY_PAUSE_S)

    async def _add_routes(self, connection: ServiceConnection, grants: Iterable[Grant]) -> None:
        """Add routes of those grants that are valid and have none."""
        async with self._routes:
            for grant in grants:
                has_route = grant.key in connection.servers
                if has_route or connection.socket is None or self._grants.get(grant.key) is None:
                    continue
                server = f"s{next(self._numbers)}"
                connection.servers[grant.key] = server
                await self._haproxy.add(GrantRoute(grant.key, server, connection.socket))

    async def _remove_routes(self, connection: ServiceConnection) -> None:
        connection.ready.clear()
        async with self._routes:
            connection.socket = None
            await self._haproxy.remove(connection.servers.values())
            connection.servers.clear()

    async def _close_sessions(self, session_ids: set[str]) -> None:
        """Close the tunnels to these sessions, and all that is open through them."""
        keys = [key for key in self._connections if key[0] in session_ids]
        tasks = [task for key in keys if (task := self._connections.pop(key).task) is not None]
        links = [self._links.pop(key) for key in list(self._links) if key[0] in session_ids]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        results += await asyncio.gather(*(link.close() for link in links), return_exceptions=True)
        for error in results:
            if isinstance(error, Exception):
                log.error("tunnel not closed", exc_info=error)

    async def _close_idle(self) -> None:
        await self._note_use()
        oldest = time.monotonic() - self._settings.idle_tunnel
        used = {each.session_id for each in self._connections.values() if each.used_at >= oldest}
        await self._close_sessions({session_id for session_id, _ in self._links} - used)

    async def _note_use(self) -> None:
        activity = await self._haproxy.activity()
        now = time.monotonic()
        for connection in self._connections.values():
            found = [activity[server] for server in connection.servers.values() if server in activity]
            total = sum(each.total for each in found)
            if total != connection.total or any(each.current for each in found):
                connection.total, connection.used_at = total, now
