"""The routes of grants in HAProxy's processes.

Each grant has an entry in the map and a server of its own, so that its connections can be closed and no others.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Self

from broker.web.haproxy_config import HaproxyFiles
from broker.web.haproxy_process import HaproxyProcess
from broker.web.haproxy_statistics import (
    BROWSER_STATISTICS,
    SERVER_STATISTICS,
    BrowserTraffic,
    ServerActivity,
    TrafficTotals,
    read_activity,
    read_traffic,
)
from broker.web.master_socket import HaproxyCommandError, MasterSocket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from broker.web.haproxy_config import GrantRoute
    from broker.web.settings import WebProcessSettings

CLOSE_TIMEOUT_S = 3.0
"""Time for connections to close; they take milliseconds. After it, HAProxy is killed, which closes them."""
POLL_S = 0.005
ROUTES_PER_COMMAND = 100
_SESSION = re.compile(r"^(0x[0-9a-f]+): .* be=services srv=(\S+) ", re.MULTILINE)
"""A line of `show sess`. Processes from before a reload refuse commands that name a server."""


class Haproxy:
    """An async context manager, within which HAProxy runs and has the routes that were added."""

    def __init__(self, settings: WebProcessSettings) -> None:
        self._files = HaproxyFiles(settings)
        self._master = MasterSocket(self._files.master_socket)
        self._routes: dict[str, GrantRoute] = {}
        """By the server's name. What is not here is in no process that starts later."""
        self._process = HaproxyProcess(self._files, self._master, self._routes.values)
        self._totals = TrafficTotals()

    async def __aenter__(self) -> Self:
        await self._process.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._process.__aexit__(kind, error, trace)

    async def reload(self) -> None:
        """Have a new process read the configuration and the certificate: see HaproxyProcess."""
        await self._process.reload()

    async def add(self, route: GrantRoute) -> None:
        """Let requests with the route's key through to its socket, from the return on."""
        commands = [
            f"add server services/{route.server} {route.address}",
            f"enable server services/{route.server}",
            f"add map {self._files.map} {route.key} {route.server}",
        ]
        async with self._process.lock:
            self._routes[route.server] = route
            try:
                present, *_ = await self._master.workers()
                output = await self._master.run(present, commands)
                if output.strip() != "New server registered.":
                    raise HaproxyCommandError(f"HAProxy has not added a server: {output.strip()[:200]!r}")
            except HaproxyCommandError as error:
                await self._process.replace(error)

    async def remove(self, servers: Iterable[str]) -> None:
        """Remove the routes to these servers. On return, their requests and WebSockets are closed in all processes."""
        async with self._process.lock:
            routes = [self._routes.pop(server) for server in servers if server in self._routes]
            try:
                for first in range(0, len(routes), ROUTES_PER_COMMAND):
                    await self._remove(routes[first : first + ROUTES_PER_COMMAND])
            except HaproxyCommandError as error:
                await self._process.replace(error)

    async def traffic(self) -> BrowserTraffic:
        """Return the traffic of browsers since the start of berth-web."""
        output = {each: await self._master.run(each, BROWSER_STATISTICS) for each in await self._master.workers()}
        return self._totals.add({each: read_traffic(text) for each, text in output.items() if text})

    async def activity(self) -> dict[str, ServerActivity]:
        """Return the activity of each server by its name."""
        found: dict[str, ServerActivity] = {}
        for worker in await self._master.workers():
            for server, (current, total) in (await self._activity(worker)).items():
                before = found.get(server, ServerActivity(0, 0))
                found[server] = ServerActivity(before.current + current, before.total + total)
        return found

    async def _remove(self, routes: Sequence[GrantRoute]) -> None:
        servers = {route.server for route in routes}
        forget = [f"del map {self._files.map} {route.key}" for route in routes]
        disable = [f"disable server services/{server}" for server in servers]
        shut_down = [_shut_down(server) for server in servers]
        present, *older = await self._master.workers()
        await self._master.run(present, [*forget, *disable, *shut_down])
        await self._close(present, servers, is_present=True)
        for worker in older:
            try:
                await self._master.run(worker, [*forget, *disable])
                await self._close(worker, servers, is_present=False)
            except HaproxyCommandError as error:
                await self._process.kill_older(worker, error)
        await self._master.run(present, [f"del server services/{server}" for server in servers])

    async def _close(self, worker: int, servers: set[str], *, is_present: bool) -> None:
        """Return when no server has a request or WebSocket in this process. HAProxy may miss one that just begins."""
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        while open_servers := servers & {name for name, each in (await self._activity(worker)).items() if each.current}:
            if time.monotonic() > deadline:
                raise HaproxyCommandError("HAProxy has not closed connections")
            if is_present:
                commands = [_shut_down(each) for each in open_servers]
            else:  # not in the present one: there, a new request may meanwhile have the address of one that has ended
                sessions = _SESSION.findall(await self._master.run(worker, ["show sess"]))
                commands = [f"shutdown session {pointer}" for pointer, server in sessions if server in open_servers]
            await self._master.send(worker, commands)  # once: an address may by now be that of this command's stream
            await asyncio.sleep(POLL_S)

    async def _activity(self, worker: int) -> dict[str, ServerActivity]:
        return read_activity(await self._master.run(worker, SERVER_STATISTICS))


def _shut_down(server: str) -> str:
    return f"shutdown sessions server services/{server}"
