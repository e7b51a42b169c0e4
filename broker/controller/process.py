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
from broker.config.settings import parse_host_and_port
from broker.controller.accounts import AccountCache
from broker.controller.api import protocol
from broker.controller.api.app import application
from broker.controller.api.listener import BACKLOG, GATEWAYS, ApiListener, ConnectionRoom, reserved_connections
from broker.controller.assembly import Controller
from broker.controller.fence import FencedScheduler
from broker.controller.launcher_client.client import inherited, spawned
from broker.controller.metrics_exporter import served
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

LOOK_EVERY = 0.5
"""Seconds between looks at whether a personal controller is still needed."""
LINGER = 0.2
"""Seconds that it serves on after it has taken its socket away."""
PREDECESSOR_LEAVES = 15.0
"""Seconds in which, in personal mode, a controller that is about to leave does: it answers no more, but its last
requests and submissions may still be under way. Less than autostart.START_TIMEOUT_S."""


def run_controller(config: Config) -> int:
    """Run the controller in this process until SIGTERM or SIGINT, or in personal mode until idle. Returns the exit
    code.

    BerthError if it cannot start: another controller runs, the registry cannot be opened, the launcher was started with
    other settings.
    """
    journal.configure_logging("berth-controller")
    os.umask(0o077)
    with _alone(config), contextlib.closing(_bind(config)) as listener:
        return asyncio.run(_main(config, listener))


async def _main(config: Config, listener: socket.socket) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # The lock is let go last: what the launcher does for this controller has ended by then.
    async with hold_registry(config.registry_url) as lock, _launcher(config) as launcher:
        launcher.check = lock.check
        alone = config.mode is Mode.PERSONAL
        registry = await asyncio.to_thread(open_registry, config.registry_url, alone=alone, lock=lock)
        backend = await open_scheduler(config.slurm.backend, timeout=config.slurm.query_timeout)
        scheduler = FencedScheduler(backend, lock.check)
        try:
            controller = Controller(config, registry, scheduler, launcher)
            use = Use()
            running = _background(controller.reconciler.run())
            metrics = _metrics(controller)
            async with metrics, running as reconciling, _serving(controller.services(use.once), listener):
                log.info("ready: %s, Slurm through %s", config.api_socket, scheduler.name)
                launcher.tell_ready()
                ends = [asyncio.create_task(stop.wait()), asyncio.create_task(launcher.gone.wait()), reconciling]
                ends.append(asyncio.create_task(lock.lost.wait()))
                if config.mode is Mode.PERSONAL:
                    ends.append(asyncio.create_task(_idle(config, controller.reconciler, use)))
                await _first_of(ends)
            await controller.finish(wait=not lock.lost.is_set())
        finally:
            await scheduler.close()
            registry.close()
        if lock.lost.is_set():
            log.error("the lock on the registry is lost: %s; ending, so that the next start takes it", lock.why)
            return 1
        if launcher.gone.is_set() and not stop.is_set():
            log.error("the launcher has left; ending, so that both are started anew")
            return 1
    return 0


@contextlib.asynccontextmanager
async def _metrics(controller: Controller) -> AsyncIterator[None]:
    """What is counted, where the configuration wants it to be served."""
    listen = controller.config.metrics.listen
    if listen is None:
        yield
        return
    try:
        with served(*parse_host_and_port(listen), controller.registry, controller.reconciler):
            yield
    except OSError as error:
        raise InvalidInputError(
            f"metrics.listen {listen}: {error}", hint="choose a free port of this machine"
        ) from error


class Use:
    """The use of the API: whether there is a request now, and when the last one ended."""

    def __init__(self) -> None:
        self._requests = 0
        self._last = time.monotonic()

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """One request, until it is answered."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._last = time.monotonic()

    @property
    def idle(self) -> float:
        """Seconds since the last request was answered; 0 while one is under way."""
        return 0.0 if self._requests else time.monotonic() - self._last


async def _first_of(ends: Sequence[asyncio.Task[Any]]) -> None:
    """Return when one of these has happened: a signal, the launcher's leaving, the loop's end, or idleness."""
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends:
            task.cancel()


async def _idle(config: Config, reconciler: Reconciler, use: Use) -> None:
    """Return when a personal controller has nothing to do, or nobody can reach it: $XDG_RUNTIME_DIR goes at logout.

    It takes its socket away first and serves those who had found it, so that nobody is hung up on.
    """
    path = config.api_socket
    own = _inode(path)
    while (use.idle < config.idle_exit or reconciler.moving) and _inode(path) == own:  # noqa: ASYNC110 - a time, not an event
        await asyncio.sleep(LOOK_EVERY)
    if _inode(path) == own:
        path.unlink()
    while use.idle < LINGER:  # noqa: ASYNC110 - as above
        await asyncio.sleep(LINGER)
    log.info("leaving: nothing to do until the next command")


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


@contextlib.asynccontextmanager
async def _launcher(config: Config) -> AsyncIterator[LauncherClient]:
    """The launcher that started us, or in personal mode one of our own."""
    if "BERTH_LAUNCHER_FD" in os.environ:
        launcher = inherited()
    elif config.mode is Mode.PERSONAL:
        launcher = await spawned(config.storage.root)
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
async def _serving(services: Services, listener: socket.socket) -> AsyncIterator[None]:
    """The API, from when it answers until its last answer has gone out."""
    config = services.config
    gateway = None
    if config.gateway.enabled:
        workers = config.gateway_workers * GATEWAYS
        gateway = (config.gateway.account, workers * API_CONNECTIONS)
    room = ConnectionRoom(reserved_connections(services.own_uid, gateway))
    app = application(services)
    server = _Server(uvicorn.Config(**protocol.settings(app)))
    server.config.load()
    async with AccountCache() as accounts:
        task = asyncio.create_task(server.serve(sockets=[]))
        try:
            async with ApiListener(listener, server, accounts, room, gateway=gateway):
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
def _alone(config: Config) -> Iterator[None]:
    """Hold the runtime and state directories; ConflictError if another controller does."""
    personal = config.mode is Mode.PERSONAL
    if personal:
        make_private(config)
    else:
        for directory in (config.runtime_dir, config.state_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (config.state_dir / "controller.lock").open("a+") as lock:
        deadline = time.monotonic() + (PREDECESSOR_LEAVES if personal else 0)
        while not _locked(lock):
            host = _holder(lock)
            if host not in {"", os.uname().nodename}:
                raise ConflictError(
                    f"your controller runs on {host}, and there can be only one",
                    hint=f"use `berth` there, or wait: it leaves {config.idle_exit:g} s after its last command",
                )
            if time.monotonic() > deadline:
                raise ConflictError(f"a controller runs already with {config.state_dir}")
            time.sleep(0.05)
        lock.truncate(0)
        lock.write(os.uname().nodename)
        lock.flush()
        os.fsync(lock.fileno())  # for those who look from another login node
        yield


def _locked(lock: IO[str]) -> bool:
    """Whether the lock is ours now; InvalidInputError where there are none, as on some network file systems."""
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


def _holder(lock: IO[str]) -> str:
    """The machine whose controller holds the lock; empty while it has not written its name."""
    lock.seek(0)
    return lock.read().strip()


def _bind(config: Config) -> socket.socket:
    """The API's socket: for everybody in site mode, since the kernel says who calls; for oneself in personal mode."""
    path = config.api_socket
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(fresh))
    fresh.chmod(0o666 if config.mode is Mode.SITE else 0o600)
    listener.listen(BACKLOG)
    fresh.rename(path)
    return listener
