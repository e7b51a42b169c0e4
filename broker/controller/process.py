"""The controller's life cycle: open everything in order, serve until stopped, close in reverse order.

Only this module handles signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import time
from typing import IO, TYPE_CHECKING, Any

import uvicorn

from broker.config.directories import make_private
from broker.config.file import Mode
from broker.config.setting_types import parse_host_and_port
from broker.controller.accounts import AccountCache
from broker.controller.api import protocol
from broker.controller.api.app import application
from broker.controller.api.listener import (
    BACKLOG,
    GATEWAYS,
    WEB_CONNECTIONS,
    ApiListener,
    ConnectionRoom,
    reserved_connections,
)
from broker.controller.assembly import Controller
from broker.controller.fence import FencedScheduler
from broker.controller.launcher_client.client import inherit_launcher, spawn_launcher
from broker.controller.metrics_exporter import serve_controller_metrics
from broker.controller.registry.database import open_registry
from broker.controller.registry.lock import hold_registry
from broker.errors import ConflictError, InvalidInputError
from broker.gateway.settings import API_CONNECTIONS
from broker.service import journal
from slurm.backends import open_scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
    from pathlib import Path

    from broker.config.settings import Config
    from broker.controller.api.dependencies import Services
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.loop import Reconciler

log = logging.getLogger(__name__)

IDLE_POLL_S = 0.5
"""Seconds between checks whether a personal controller is still needed."""
DRAIN_S = 0.2
"""Seconds for which a personal controller serves after it has removed its socket."""
LOCK_TIMEOUT_S = 15.0
"""Seconds that a personal controller waits for the lock of one that is ending. That one answers no new request, but may
complete its last requests and submissions. Less than autostart.START_TIMEOUT_S."""


def run_controller(config: Config) -> int:
    """Run the controller until SIGTERM or SIGINT, or in personal mode until idle, and return the exit code.

    BerthError if it cannot start: another controller runs, the registry cannot be opened, or the launcher has other
    settings.
    """
    journal.configure_logging("berth-controller")
    os.umask(0o077)
    with _exclusive_lock(config), contextlib.closing(_bind(config)) as listener:
        return asyncio.run(_main(config, listener))


async def _main(config: Config, listener: socket.socket) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # The lock is released last, after the launcher's work for this controller has ended.
    async with hold_registry(config.registry_url) as lock, _launcher(config) as launcher:
        launcher.check = lock.check
        alone = config.mode is Mode.PERSONAL
        registry = await asyncio.to_thread(open_registry, config.registry_url, alone=alone, lock=lock)
        backend = await open_scheduler(config.slurm.backend, timeout=config.slurm.query_timeout)
        scheduler = FencedScheduler(backend, lock.check)
        try:
            controller = Controller(config, registry, scheduler, launcher)
            activity = ActivityTracker()
            running = _background(controller.reconciler.run())
            serving = _serve_api(controller.services(activity.request), listener)
            reviewing = _background(controller.guests.run())
            async with _metrics(controller), _sweep(controller), running as reconciling, reviewing, serving:
                log.info("ready: %s, Slurm through %s", config.api_socket, scheduler.name)
                launcher.tell_ready()
                ends = [asyncio.create_task(stop.wait()), asyncio.create_task(launcher.gone.wait()), reconciling]
                ends.append(asyncio.create_task(lock.lost.wait()))
                if config.mode is Mode.PERSONAL:
                    ends.append(asyncio.create_task(_wait_until_idle(config, controller.reconciler, activity)))
                await _first_of(ends)
            await controller.finish(wait=not lock.lost.is_set())
        finally:
            await scheduler.close()
            registry.close()
        if lock.lost.is_set():
            log.error("the lock on the registry is lost: %s; ending, so that the next start takes it", lock.why)
            return 1
        if launcher.gone.is_set() and not stop.is_set():
            log.error("the launcher has left; ending, so that systemd restarts both")
            return 1
    return 0


@contextlib.asynccontextmanager
async def _sweep(controller: Controller) -> AsyncIterator[None]:
    """Remove during the block what is over: old history, and in web access, if the site has it, logins and visits."""
    async with contextlib.AsyncExitStack() as running:
        await running.enter_async_context(_background(controller.history_sweep.run()))
        if controller.web is not None:
            await running.enter_async_context(_background(controller.web.sweep.run()))
            await running.enter_async_context(_background(controller.web.guests.run()))
        yield


@contextlib.asynccontextmanager
async def _metrics(controller: Controller) -> AsyncIterator[None]:
    """Serve the metrics during the block, if the configuration has an address for them."""
    listen = controller.config.metrics.listen
    if listen is None:
        yield
        return
    try:
        with serve_controller_metrics(*parse_host_and_port(listen), controller.registry, controller.reconciler):
            yield
    except OSError as error:
        raise InvalidInputError(
            f"metrics.listen {listen}: {error}", hint="choose a free port of this machine"
        ) from error


class ActivityTracker:
    """The activity of the API: whether it has a request now, and when the last one ended."""

    def __init__(self) -> None:
        self._requests = 0
        self._last = time.monotonic()

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Count a request during the block."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._last = time.monotonic()

    @property
    def idle(self) -> float:
        """Seconds since the end of the last request; 0 during a request."""
        return 0.0 if self._requests else time.monotonic() - self._last


async def _first_of(ends: Sequence[asyncio.Task[Any]]) -> None:
    """Return when one of the tasks ends: on a signal, the launcher's end, the loop's end, or idleness."""
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends:
            task.cancel()


async def _wait_until_idle(config: Config, reconciler: Reconciler, activity: ActivityTracker) -> None:
    """Return when a personal controller is idle, or unreachable because logout has removed $XDG_RUNTIME_DIR.

    The socket is removed first. Clients that are connected by then are served.
    """
    path = config.api_socket
    own = _inode(path)
    while (activity.idle < config.idle_exit or reconciler.moving) and _inode(path) == own:  # noqa: ASYNC110 - a time, not an event
        await asyncio.sleep(IDLE_POLL_S)
    if _inode(path) == own:
        path.unlink()
    while activity.idle < DRAIN_S:  # noqa: ASYNC110 - as above
        await asyncio.sleep(DRAIN_S)
    log.info("leaving: nothing to do until the next command")


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


@contextlib.asynccontextmanager
async def _launcher(config: Config) -> AsyncIterator[LauncherClient]:
    """Connect to the launcher that started this process, or in personal mode start one."""
    if "BERTH_LAUNCHER_FD" in os.environ:
        launcher = inherit_launcher()
    elif config.mode is Mode.PERSONAL:
        launcher = await spawn_launcher(config.storage.root)
    else:
        raise InvalidInputError(
            "in site mode the controller is started by berth-launcher",
            hint="`systemctl start berth`; see docs/howto/site.md",
        )
    async with launcher:
        if launcher.storage != config.storage.root:
            raise InvalidInputError(
                f"the launcher was started with --storage {launcher.storage}, not with {config.storage.root}",
                hint="make storage.root and the systemd unit's --storage equal",
            )
        yield launcher


@contextlib.asynccontextmanager
async def _background(work: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def _serve_api(services: Services, listener: socket.socket) -> AsyncIterator[None]:
    """Serve the API during the block, and complete its requests at the end."""
    config = services.config
    reserved = {}
    if config.gateway.enabled:
        reserved[config.gateway.account] = config.gateway_workers * GATEWAYS * API_CONNECTIONS
    if config.has_web:
        reserved[config.web.account] = WEB_CONNECTIONS
    room = ConnectionRoom(reserved_connections(services.own_uid, reserved))
    app = application(services)
    server = _Server(uvicorn.Config(**protocol.settings(app)))
    server.config.load()
    async with AccountCache() as accounts:
        task = asyncio.create_task(server.serve(sockets=[]))
        try:
            async with ApiListener(listener, server, accounts, room, services=reserved):
                yield
        finally:
            app.state.stopping.set()
            server.should_exit = True
            await task


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `_main`."""
        yield


@contextlib.contextmanager
def _exclusive_lock(config: Config) -> Iterator[None]:
    """Lock the runtime and state directories; ConflictError if another controller has locked them."""
    personal = config.mode is Mode.PERSONAL
    if personal:
        make_private(config)
    else:
        for directory in (config.runtime_dir, config.state_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (config.state_dir / "controller.lock").open("a+") as lock:
        deadline = time.monotonic() + (LOCK_TIMEOUT_S if personal else 0)
        while not _try_lock(lock):
            host = _lock_owner(lock)
            if host not in {"", os.uname().nodename}:
                raise ConflictError(
                    f"your controller runs on {host}, and a user can have only one",
                    hint=f"use `berth` there, or wait: it ends {config.idle_exit:g} s after its last command",
                )
            if time.monotonic() > deadline:
                raise ConflictError(f"another controller uses {config.state_dir}")
            time.sleep(0.05)
        lock.truncate(0)
        lock.write(os.uname().nodename)
        lock.flush()
        os.fsync(lock.fileno())  # other login nodes read the name
        yield


def _try_lock(lock: IO[str]) -> bool:
    """Whether this process got the lock; InvalidInputError if the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InvalidInputError(
            f"the file system of {lock.name} has no locks: {error.strerror}",
            hint="set state_dir to a directory on another one",
        ) from error
    return True


def _lock_owner(lock: IO[str]) -> str:
    """Return the machine whose controller holds the lock; empty until it has written its name."""
    lock.seek(0)
    return lock.read().strip()


def _bind(config: Config) -> socket.socket:
    """Bind the API's socket. In site mode all users may connect, because the kernel reports the caller's uid."""
    path = config.api_socket
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(fresh))
    fresh.chmod(0o666 if config.mode is Mode.SITE else 0o600)
    listener.listen(BACKLOG)
    fresh.rename(path)
    return listener
