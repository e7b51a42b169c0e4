"""HAProxy as a child process: its life, its reloads, and the grants' routes in its processes.

Each grant has an entry in the map and a server of its own, so that its connections can be closed and no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import logging
import os
import re
import signal
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from broker.errors import BerthError
from broker.web.haproxy_config import HaproxyFiles
from broker.web.master_socket import HaproxyCommandError, MasterSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from broker.web.haproxy_config import GrantRoute
    from broker.web.settings import WebProcessSettings

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 3.0
"""Time for connections to close; they take milliseconds. After it, HAProxy is killed, which closes them."""
POLL_S = 0.005
RESTART_DELAY_S = 0.5
ROUTES_PER_COMMAND = 100
MAX_MESSAGE_CHARS = 1000
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM", "--")
"""Without berth-web nothing could be revoked, so HAProxy ends with it: prctl(2), PR_SET_PDEATHSIG."""
_SESSION = re.compile(r"^(0x[0-9a-f]+): .* be=services srv=(\S+) ", re.MULTILINE)
"""A line of `show sess`. Processes from before a reload refuse commands that name a server."""

log = logging.getLogger(__name__)


class ServerActivity(NamedTuple):
    """The requests and WebSockets of one server, over all of HAProxy's processes."""

    current: int
    total: int


class Haproxy:
    """An async context manager around HAProxy. If its master ends, it is started again with the present routes."""

    def __init__(self, settings: WebProcessSettings) -> None:
        self._files = HaproxyFiles(settings)
        self._master = MasterSocket(self._files.master_socket)
        self._routes: dict[str, GrantRoute] = {}
        """By the server's name. What is not here is in no process that starts later."""
        self._lock = asyncio.Lock()
        """Held while routes change or processes start, so that no process misses a change."""
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._messages: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        async with self._lock:
            await self._start()
        self._supervisor = asyncio.create_task(self._supervise())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._supervisor is not None
        self._supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._supervisor
        await self._stop()

    async def add(self, route: GrantRoute) -> None:
        """Let requests with the route's key through to its socket, from the return on."""
        commands = [
            f"add server services/{route.server} {route.address}",
            f"enable server services/{route.server}",
            f"add map {self._files.map} {route.key} {route.server}",
        ]
        async with self._lock:
            self._routes[route.server] = route
            try:
                present = (await self._master.workers())[:1]
                output = "".join([await self._master.run(worker, commands) for worker in present])
                if output.strip() != "New server registered.":
                    raise HaproxyCommandError(f"HAProxy has not added a server: {output.strip()[:200]!r}")
            except HaproxyCommandError as error:
                await self._replace(error)

    async def remove(self, servers: Iterable[str]) -> None:
        """Remove the routes to these servers. On return, their requests and WebSockets are closed in all processes."""
        async with self._lock:
            routes = [self._routes.pop(server) for server in servers if server in self._routes]
            try:
                for first in range(0, len(routes), ROUTES_PER_COMMAND):
                    await self._remove(routes[first : first + ROUTES_PER_COMMAND])
            except HaproxyCommandError as error:
                await self._replace(error)

    async def activity(self) -> dict[str, ServerActivity]:
        """Return the activity of each server by its name."""
        found: dict[str, ServerActivity] = {}
        for worker in await self._master.workers():
            for server, (current, total) in (await self._activity(worker)).items():
                before = found.get(server, ServerActivity(0, 0))
                found[server] = ServerActivity(before.current + current, before.total + total)
        return found

    async def reload(self) -> None:
        """Have a new process read the configuration and the certificate. Open connections stay in the old one.

        BerthError if they are not valid; then the present process stays.
        """
        async with self._lock:
            self._files.write(self._routes.values())
            await self._check()
            try:
                before = await self._master.workers()
                assert self._process is not None
                self._process.send_signal(signal.SIGUSR2)
                await self._wait_for_worker(lambda worker: worker not in before)
            except (HaproxyCommandError, ProcessLookupError) as error:
                await self._replace(error)

    async def _remove(self, routes: Sequence[GrantRoute]) -> None:
        servers = {route.server for route in routes}
        forget = [f"del map {self._files.map} {route.key}" for route in routes]
        disable = [f"disable server services/{server}" for server in servers]
        workers = await self._master.workers()
        for worker in workers:
            await self._master.run(worker, [*forget, *disable])
            await self._close(worker, servers, is_present=worker == workers[0])
        for worker in workers[:1]:
            await self._master.run(worker, [f"del server services/{server}" for server in servers])

    async def _close(self, worker: int, servers: set[str], *, is_present: bool) -> None:
        """Return when no server has a request or WebSocket in this process. HAProxy may miss one that just begins."""
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        while open_servers := servers & {name for name, each in (await self._activity(worker)).items() if each.current}:
            if time.monotonic() > deadline:
                raise HaproxyCommandError("HAProxy has not closed connections")
            if is_present:
                commands = [f"shutdown sessions server services/{each}" for each in open_servers]
            else:  # not in the present one: there, a new request may meanwhile have the address of one that has ended
                sessions = _SESSION.findall(await self._master.run(worker, ["show sess"]))
                commands = [f"shutdown session {pointer}" for pointer, server in sessions if server in open_servers]
            await self._master.run(worker, commands)
            await asyncio.sleep(POLL_S)

    async def _activity(self, worker: int) -> dict[str, ServerActivity]:
        """Read the statistics of one process (management.txt, section 9.1)."""
        output = await self._master.run(worker, ["show stat services 4 -1"])
        rows = csv.DictReader(io.StringIO(output.lstrip().removeprefix("# ")))
        try:
            return {row["svname"]: ServerActivity(int(row["scur"]), int(row["stot"])) for row in rows if row["stot"]}
        except (KeyError, TypeError, ValueError) as error:
            raise HaproxyCommandError("HAProxy's statistics are not valid") from error

    async def _check(self) -> None:
        """Check configuration and certificate. BerthError with HAProxy's messages unless they are valid."""
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        argv = ("haproxy", "-c", "-f", self._files.configuration)
        try:
            check = await asyncio.create_subprocess_exec(*argv, stdin=null, stdout=null, stderr=pipe)
        except OSError as error:
            raise BerthError(f"HAProxy cannot be started: {error}", hint="install the package haproxy") from error
        _, messages = await check.communicate()
        if check.returncode != 0:
            alerts = [line for line in messages.decode(errors="replace").splitlines() if "ALERT" in line]
            raise BerthError("HAProxy refuses its configuration", hint="; ".join(alerts)[:MAX_MESSAGE_CHARS])

    async def _start(self) -> None:
        """Start HAProxy with the present routes. BerthError if it does not serve."""
        self._files.write(self._routes.values())
        await self._check()
        argv = ("haproxy", "-W", "-f", self._files.configuration, "-S", self._files.master_socket)
        self._process = await asyncio.create_subprocess_exec(
            *(*_DIE_WITH_PARENT, *argv),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
        )
        assert self._process.stderr is not None
        self._messages = asyncio.create_task(_log_alerts(self._process.stderr))
        try:
            await self._wait_for_worker(lambda _: True)
        except HaproxyCommandError:
            await self._kill()
            raise

    async def _wait_for_worker(self, is_expected: Callable[[int], bool]) -> None:
        """Wait until the present worker is the expected one; HaproxyCommandError if HAProxy ends or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(HaproxyCommandError):
                for worker in (await self._master.workers())[:1]:
                    if is_expected(worker) and await self._master.is_serving(worker):
                        return
            if time.monotonic() > deadline or self._process is None or self._process.returncode is not None:
                raise HaproxyCommandError("HAProxy does not start", hint="its messages are in the log")
            await asyncio.sleep(POLL_S)

    async def _replace(self, error: Exception) -> None:
        """Kill HAProxy, which closes all connections, and start it with the present routes."""
        log.error("haproxy replaced error=%s", error)
        await self._kill()
        await self._restart()

    async def _restart(self) -> None:
        """Start HAProxy. If it does not start, the supervisor tries again."""
        try:
            await self._start()
        except BerthError as error:
            log.error("haproxy not started error=%s hint=%s", error.message, error.hint)
        except OSError as error:  # such as no process or no space left
            log.error("haproxy not started error=%s", error)

    async def _stop(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            if self._messages is not None:
                self._messages.cancel()  # it alerts that its workers end
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        await self._kill()

    async def _kill(self) -> None:
        """Kill master and workers, which are a process group."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _supervise(self) -> None:
        """Start HAProxy again whenever it ends by itself."""
        while True:
            process = self._process
            if process is not None:
                await process.wait()
            await asyncio.sleep(RESTART_DELAY_S)
            async with self._lock:
                if self._process is process:
                    log.error("haproxy ended code=%s", process.returncode if process else None)
                    await self._restart()


async def _log_alerts(messages: asyncio.StreamReader) -> None:
    """Log the alerts among HAProxy's messages, which are many, until the last of its processes ends."""
    while chunk := await messages.read(65536):
        for line in chunk.decode(errors="replace").splitlines():
            if line.startswith("[ALERT]"):
                log.error("haproxy: %s", line[:MAX_MESSAGE_CHARS])
