"""The controller's life: open everything in order, serve until told to stop, close in the reverse order. Only this
touches signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import signal
import socket
import sys
import time
from typing import IO, TYPE_CHECKING, Any

import uvicorn

from broker.api import Services, application
from broker.authorized import AuthorizedKeys
from broker.certificates import CertificateAuthority
from broker.changes import Changes
from broker.checks import controller_checks
from broker.configfile import Mode
from broker.errors import ConflictError, InvalidInputError
from broker.launching import inherited, spawned
from broker.peercred import PeerCredentialProtocol
from broker.personal import make_private
from broker.rebuild import rebuild
from broker.reconcile import Reconciler
from broker.registry import open_registry
from broker.sessions import Sessions
from broker.submission import Submitter
from profiles.store import Stores
from slurm.backends import open_scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence

    from broker.config import Config
    from broker.launching import Launcher

log = logging.getLogger(__name__)

PREDECESSOR_LEAVES = 15.0
"""Seconds in which, in personal mode, a controller that is about to leave does: it answers no more, but its last
requests and submissions may still be under way. Less than personal.START_WITHIN."""


def run_controller(config: Config) -> int:
    """Run the controller in this process until SIGTERM or SIGINT, or in personal mode until idle. Returns the exit
    code.

    BerthError if it cannot start: another controller runs, the registry cannot be opened, the launcher was started with
    other settings.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    os.umask(0o077)
    with _alone(config), contextlib.closing(_bind(config)) as listener:
        return asyncio.run(_main(config, listener))


async def _main(config: Config, listener: socket.socket) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _launcher(config) as launcher:
        registry = await asyncio.to_thread(open_registry, config.registry_url)
        scheduler = await open_scheduler(config.slurm.backend, timeout=config.slurm.query_timeout)
        try:
            authority = CertificateAuthority.load_or_create(config.state_dir / "ca_ed25519_key")
            stores = Stores(config.profiles.stores)
            keys = AuthorizedKeys(registry, launcher)
            changes = Changes()
            submitter = Submitter(
                config=config,
                registry=registry,
                launcher=launcher,
                stores=stores,
                authority=authority,
                keys=keys,
                changes=changes,
            )
            reconciler = Reconciler(
                settings=config.slurm,
                registry=registry,
                scheduler=scheduler,
                launcher=launcher,
                submitter=submitter,
                changes=changes,
            )
            sessions = Sessions(
                registry=registry,
                stores=stores,
                launcher=launcher,
                submitter=submitter,
                reconciler=reconciler,
                keys=keys,
                changes=changes,
                domain=config.ssh.domain,
            )
            use = LastUse()
            services = Services(
                config=config,
                sessions=sessions,
                keys=keys,
                authority=authority,
                checks=functools.partial(controller_checks, config, scheduler, launcher, stores, reconciler),
                rebuild=functools.partial(rebuild, config, registry, scheduler, launcher),
                touched=use.touch,
                own_uid=os.getuid(),
            )
            async with _background(reconciler.run()) as reconciling, _serving(services, listener):
                log.info("ready: %s, Slurm through %s", config.api_socket, scheduler.name)
                ends = [asyncio.create_task(stop.wait()), asyncio.create_task(launcher.gone.wait()), reconciling]
                if config.mode is Mode.PERSONAL:
                    ends.append(asyncio.create_task(_idle(config.idle_exit, reconciler, use)))
                await _first_of(ends)
            await submitter.drain()
            await reconciler.close()
        finally:
            await scheduler.close()
            registry.close()
        if launcher.gone.is_set() and not stop.is_set():
            log.error("the launcher has left; ending, so that both are started anew")
            return 1
    return 0


class LastUse:
    """When the API was last asked something."""

    def __init__(self) -> None:
        self.at = time.monotonic()

    def touch(self) -> None:
        self.at = time.monotonic()


async def _first_of(ends: Sequence[asyncio.Task[Any]]) -> None:
    """Return when one of these has happened: a signal, the launcher's leaving, the loop's end, or idleness."""
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends:
            task.cancel()


async def _idle(seconds: float, reconciler: Reconciler, use: LastUse) -> None:
    while (left := use.at + seconds - time.monotonic()) > 0 or reconciler.moving:  # noqa: ASYNC110 - a time, not an event
        await asyncio.sleep(max(left, 1.0))


@contextlib.asynccontextmanager
async def _launcher(config: Config) -> AsyncIterator[Launcher]:
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
    server = _Server(
        uvicorn.Config(
            application(services),
            http=PeerCredentialProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=1024,
            timeout_graceful_shutdown=5,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
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
    for directory in (config.runtime_dir, config.state_dir):
        if personal:
            make_private(directory)
        else:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (config.state_dir / "controller.lock").open("w") as lock:
        if not _locked(lock, patience=PREDECESSOR_LEAVES if personal else 0):
            raise ConflictError(f"a controller runs already with {config.state_dir}")
        yield


def _locked(file: IO[str], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _bind(config: Config) -> socket.socket:
    """The API's socket: for everybody in site mode, since the kernel says who calls; for oneself in personal mode."""
    path = config.api_socket
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(fresh))
    fresh.chmod(0o666 if config.mode is Mode.SITE else 0o600)
    listener.listen(1024)
    fresh.rename(path)
    return listener
