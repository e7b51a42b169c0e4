"""The master process, which owns the port. It starts workers, replaces those that end, and all of them on SIGHUP.

    berth gateway           the master: binds one socket for each worker, all to one port (SO_REUSEPORT)
    berth gateway --worker  a worker: serves the socket that is its file descriptor 3; descriptor 4 is the table in
                            which all workers count what each user has (usage)

A worker's standard input is its lifeline: at end of file it stops accepting connections, and ends with its last
connection. It writes one line to its standard output when it serves.

A reload drops no connection. The master executes itself again, with the present program and configuration. It keeps the
sockets and starts new workers on them. When all of these serve, it closes the lifelines of the old workers. Both use
the kernel's queue of the same socket, so no client waits in a closed one (ADR 44).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.gateway.listener import bind_socket
from broker.gateway.metrics import MetricsTotals, serve_metrics
from broker.gateway.usage import UsageTable
from broker.gateway.watchdog import Watchdog
from broker.service import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LISTEN_FD = 3
"""The descriptor of a worker's socket, the first one as for sd_listen_fds(3)."""
USAGE_FD = 4
"""The descriptor of the table of users' resources in a worker."""
READY = b"ready\n"

HANDOVER_VARIABLE = "BERTH_GATEWAY_HANDOVER"
"""The environment variable with the master's state during a reload."""
CHECK_TIMEOUT_S = 60.0
"""Seconds for the new program to check the new configuration."""
FIRST_RETRY_S, MAX_RETRY_S = 0.5, 30.0
"""Seconds before a worker that ended is replaced: doubled each time, from the first to the last."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """The address of the port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class MetricsTarget:
    """The directory for the workers' counters, and the address that serves them."""

    directory: Path
    address: Address


class Worker:
    """One worker process, from its start until it has been waited for."""

    def __init__(self, pid: int, lifeline: int | None, clear_up: Callable[[int], None]) -> None:
        """Watch the process `pid`. `clear_up` is called with `pid` after its end, before the kernel may reuse `pid`."""
        self.pid = pid
        self.lifeline = lifeline
        self.ended = asyncio.create_task(_wait_for(pid, clear_up))

    @classmethod
    def start(cls, sock: socket.socket, table: UsageTable, clear_up: Callable[[int], None]) -> tuple[Worker, int]:
        """Start a worker for `sock`. Return it, and the descriptor on which it reports that it serves."""
        inner, lifeline = os.pipe()
        answer, outer = os.pipe()
        descriptors = {0: inner, 1: outer, LISTEN_FD: sock.fileno(), USAGE_FD: table.descriptor}
        worker = cls(_spawn([*_command(), "--worker"], descriptors), lifeline, clear_up)
        os.close(inner)
        os.close(outer)
        return worker, answer

    def retire(self) -> None:
        """Make it stop accepting connections, and end with its last connection."""
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None

    def stop(self) -> None:
        """Make the worker end its connections and exit."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)


class Master:
    """The owner of the sockets and the workers, as the module's docstring describes."""

    def __init__(
        self, address: Address, workers: int, numbers: MetricsTarget | None = None, *, worker_timeout: float
    ) -> None:
        """`numbers`: the workers' counts that are served. `worker_timeout`: seconds until a silent worker is killed."""
        before = _Handover.take()
        self._numbers = numbers
        self._totals = None if numbers is None else MetricsTotals(numbers.directory, fresh=before.address is None)
        self._address = address
        self._table = before.table or UsageTable.create()
        self._table.keep_only([pid for pid, _ in before.workers])
        self._old = [Worker(pid, lifeline, self._clear_up) for pid, lifeline in before.workers]
        self._new: set[Worker] = set()
        same = before.address == address and len(before.sockets) == workers
        self._sockets = before.sockets if same else _bind(address, workers)
        for sock in () if same else before.sockets:
            sock.close()
        self._watchdog = Watchdog(self._table, worker_timeout)
        self._without = len(self._sockets)
        self._complete = asyncio.Event()
        self._stopping = asyncio.Event()
        self._reloading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second signal ends the connections at once."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if self._numbers is not None and self._totals is not None:
            serve_metrics(self._totals, self._numbers.address.host, self._numbers.address.port)
        tasks = [asyncio.create_task(self._keep(number, sock)) for number, sock in enumerate(self._sockets, 1)]
        tasks.append(asyncio.create_task(self._retire_the_old()))
        watching = asyncio.create_task(self._watch())  # also while it stops: a worker that hangs does not end by itself
        await self._stopping.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.ended for worker in self._workers()))
        watching.cancel()

    async def _watch(self) -> None:
        """Kill the workers that hang. `_keep` replaces them, and the clients in their sockets' queues are served."""
        while True:
            await asyncio.sleep(self._watchdog.interval_s)
            for pid in self._watchdog.look(worker.pid for worker in self._workers()):
                _log.error("worker process %d hangs and is killed", pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _workers(self) -> list[Worker]:
        return [worker for worker in (*self._old, *self._new) if not worker.ended.done()]

    async def _keep(self, number: int, sock: socket.socket) -> None:
        """Keep a worker running for that socket."""
        pause, first = FIRST_RETRY_S, True
        while not self._stopping.is_set():
            worker, answer = Worker.start(sock, self._table, self._clear_up)
            self._new.add(worker)
            if await _read(answer) == READY:
                _log.info("worker %d of %d serves, process %d", number, len(self._sockets), worker.pid)
                pause = FIRST_RETRY_S
                if first:
                    self._served_first()
                    first = False
            status = await asyncio.shield(worker.ended)
            worker.retire()
            self._new.remove(worker)
            _log.error("worker process %d ended with status %d; another takes its place", worker.pid, status)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_S)

    def _clear_up(self, pid: int) -> None:
        """Add the counters of the ended worker `pid` to the totals, and clear its counts of users."""
        self._table.release(pid)
        if self._totals is not None:
            self._totals.add_ended_worker(pid)

    def _served_first(self) -> None:
        """Record that one more socket has a worker."""
        self._without -= 1
        if not self._without:
            self._complete.set()

    async def _retire_the_old(self) -> None:
        await self._complete.wait()
        notify.notify_ready()
        for worker in self._old:
            worker.retire()
        _log.info("serving with %d workers; %d old ones finish", len(self._sockets), len(self._old))

    def _stop(self) -> None:
        notify.notify_stopping()
        self._stopping.set()
        for worker in self._workers():
            worker.stop()

    def _reload(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._become_new())

    async def _become_new(self) -> None:
        notify.notify_reloading()
        await self._complete.wait()
        if not await _checks_out():
            _log.error("reload: the old program and configuration stay in use")
            notify.notify_ready()
            return
        if self._stopping.is_set():
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        workers = [(worker.pid, worker.lifeline) for worker in self._workers()]
        _Handover(self._address, self._sockets, workers, self._table).give()
        notify.expose_address()
        os.execv(sys.executable, _command())  # noqa: S606 - ourselves


_SIGNALS = {*STOP_SIGNALS, signal.SIGHUP}


@dataclass(frozen=True, slots=True)
class _Handover:
    """State that a master passes to the master that it becomes: children stay children, descriptors stay open."""

    address: Address | None
    sockets: list[socket.socket]
    workers: Sequence[tuple[int, int | None]]
    table: UsageTable | None
    """None at the first start, and after a program without a table or with another layout."""

    def give(self) -> None:
        descriptors = [sock.fileno() for sock in self.sockets]
        for descriptor in (*descriptors, *(lifeline for _, lifeline in self.workers if lifeline is not None)):
            os.set_inheritable(descriptor, True)
        assert self.address is not None
        assert self.table is not None
        os.set_inheritable(self.table.descriptor, True)
        state = {
            "address": [self.address.host, self.address.port],
            "sockets": descriptors,
            "workers": self.workers,
            "usage": self.table.descriptor,
        }
        os.environ[HANDOVER_VARIABLE] = json.dumps(state)

    @classmethod
    def take(cls) -> _Handover:
        state = json.loads(os.environ.pop(HANDOVER_VARIABLE, "null"))
        if state is None:
            return cls(None, [], [], None)
        sockets = [socket.socket(fileno=descriptor) for descriptor in state["sockets"]]
        for descriptor in (*state["sockets"], *(lifeline for _, lifeline in state["workers"] if lifeline is not None)):
            os.set_inheritable(descriptor, False)
        workers = [(pid, lifeline) for pid, lifeline in state["workers"]]
        return cls(Address(*state["address"]), sockets, workers, cls._table(state.get("usage")))

    @staticmethod
    def _table(descriptor: int | None) -> UsageTable | None:
        if descriptor is None:
            return None
        os.set_inheritable(descriptor, False)
        try:
            return UsageTable(descriptor)
        except ValueError:
            os.close(descriptor)
            return None


def run_master(address: Address, workers: int, numbers: MetricsTarget | None = None, *, worker_timeout: float) -> None:
    """Run the master until SIGTERM; the arguments are those of Master."""

    async def run_until_sigterm() -> None:
        await Master(address, workers, numbers, worker_timeout=worker_timeout).run()

    asyncio.run(run_until_sigterm())


def _bind(address: Address, count: int) -> list[socket.socket]:
    sockets = [bind_socket(address.host, address.port)]
    port = sockets[0].getsockname()[1]
    sockets += [bind_socket(address.host, port) for _ in range(count - 1)]
    return sockets


def _command() -> list[str]:
    """Return the command that started this program."""
    return [sys.executable, *sys.orig_argv[1:]]


async def _checks_out() -> bool:
    """Whether the present program accepts the present configuration."""
    try:
        check = await asyncio.create_subprocess_exec(*_command(), "--check", stdin=asyncio.subprocess.DEVNULL)
    except OSError as error:
        _log.error("reload: %s", error)
        return False
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check.wait() == 0
    except TimeoutError:
        check.kill()
        _log.error("reload: no answer within %g s", CHECK_TIMEOUT_S)
        return False


def _spawn(command: list[str], descriptors: dict[int, int]) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in descriptors.items()]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setsigmask=())


async def _read(descriptor: int) -> bytes:
    """Read a worker's report; return nothing if the worker has ended."""
    try:
        await _wait_until_readable(descriptor)
        return os.read(descriptor, len(READY))
    finally:
        os.close(descriptor)


async def _wait_for(pid: int, clear_up: Callable[[int], None]) -> int:
    """Wait for the child `pid`, which an earlier master may have started, and call `clear_up` before it is reaped.

    Return its exit status, negative for a signal (pidfd_open(2)).
    """
    descriptor = os.pidfd_open(pid)
    try:
        await _wait_until_readable(descriptor)
    finally:
        os.close(descriptor)
    try:
        clear_up(pid)
    except Exception:  # noqa: BLE001 - a new worker must start after any error
        _log.exception("the counts of worker process %d remain", pid)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222 - it has ended


async def _wait_until_readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)
