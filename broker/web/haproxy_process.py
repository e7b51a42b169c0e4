"""HAProxy as a child process: its start, its reloads, and its end. What ends by itself is started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Self

from broker.errors import BerthError
from broker.web import metrics
from broker.web.master_socket import HaproxyCommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from broker.web.haproxy_config import GrantRoute, HaproxyFiles
    from broker.web.master_socket import MasterSocket

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.005
RESTART_DELAY_S = 0.5
MAX_MESSAGE_CHARS = 1000
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM", "--")
"""Without berth-web nothing could be revoked, so HAProxy ends with it: prctl(2), PR_SET_PDEATHSIG."""

log = logging.getLogger(__name__)


class HaproxyProcess:
    """An async context manager, within which HAProxy runs. A process that starts has the present routes."""

    def __init__(self, files: HaproxyFiles, master: MasterSocket, routes: Callable[[], Iterable[GrantRoute]]) -> None:
        """`routes` returns the routes that are present."""
        self._files = files
        self._master = master
        self._routes = routes
        self.lock = asyncio.Lock()
        """Held while routes change or processes start, so that no process misses a change."""
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._messages: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        async with self.lock:
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

    async def reload(self) -> None:
        """Have a new worker read the configuration and the certificate. Open connections stay in the old one.

        BerthError if they are not valid; then the present worker stays.
        """
        async with self.lock:
            self._files.write(self._routes())
            await self._check()
            try:
                before = await self._master.workers()
                assert self._process is not None
                self._process.send_signal(signal.SIGUSR2)
                await self._wait_for_worker(lambda worker: worker not in before)
            except (HaproxyCommandError, ProcessLookupError) as error:
                await self.replace(error)

    async def replace(self, error: Exception) -> None:
        """Kill HAProxy, which closes all connections, and start it with the present routes. The caller has the lock."""
        log.error("haproxy replaced error=%s", error)
        await self._kill()
        await self._restart()

    async def kill_older(self, worker: int, error: Exception) -> None:
        """Kill one worker from before a reload, which closes its connections only. The caller has the lock.

        HaproxyCommandError if it does not end.
        """
        log.error("haproxy worker killed pid=%d error=%s", worker, error)
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(worker)
            try:
                _, *older = await self._master.workers()
                if worker in older:  # so the descriptor is not that of another process, which got its id
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)
        await self._master.run(worker, [])

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
        self._files.write(self._routes())
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
        metrics.HAPROXY_STARTS.inc()

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
            async with self.lock:
                if self._process is process:
                    log.error("haproxy ended code=%s", process.returncode if process else None)
                    await self._restart()


async def _log_alerts(messages: asyncio.StreamReader) -> None:
    """Log the alerts among HAProxy's messages, which are many, until the last of its processes ends."""
    while chunk := await messages.read(65536):
        for line in chunk.decode(errors="replace").splitlines():
            if line.startswith("[ALERT]"):
                log.error("haproxy: %s", line[:MAX_MESSAGE_CHARS])
