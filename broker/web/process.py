"""The process of berth-web: open everything in order, serve until SIGTERM, close in reverse order."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import BerthError, ConflictError
from broker.service import journal
from broker.service.notify import notify_ready, notify_stopping
from broker.web.access import BrowserAccess
from broker.web.app import HostRouter
from broker.web.control import control_app, may_control
from broker.web.controller_client import WebControllerClient
from broker.web.entrances import Entrances
from broker.web.grants import GrantStore
from broker.web.haproxy import Haproxy
from broker.web.http_server import UnixHttpServer
from broker.web.metrics_exporter import publish_metrics
from broker.web.portal.app import make_portal
from broker.web.portal.live_sessions import LiveSessions
from broker.web.portal.portal_context import PortalContext
from broker.web.portal.service_pages import PortalServicePages
from broker.web.service_face import ServiceFace
from broker.web.tunnel import WebKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from broker.schema.web import EndedVisits
    from broker.web.settings import WebProcessSettings

CERTIFICATE_CHECK_S = 10.0
"""Time between two looks at the certificate's file."""

log = logging.getLogger(__name__)


def run_web(settings: WebProcessSettings) -> None:
    """Serve until SIGTERM or SIGINT. BerthError if it cannot start: another one runs, or HAProxy does not start."""
    journal.configure_logging("berth-web")
    os.umask(0o077)
    os.chdir("/")  # HAProxy does not start where its account cannot return to
    with _exclusive_lock(settings.directory):
        asyncio.run(_main(settings))


@dataclass(frozen=True, slots=True)
class WebGateway:
    """The parts of berth-web while it serves."""

    haproxy: Haproxy
    access: BrowserAccess
    entrances: Entrances


async def _main(settings: WebProcessSettings) -> None:
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    async with serve_web(settings) as gateway:
        reloading = asyncio.create_task(_reload_on_change(gateway.haproxy, settings.certificate, reload))
        log.info("ready: %s on %s", settings.origins.portal_url, settings.listen_text)
        notify_ready()
        ends = [asyncio.create_task(event.wait()) for event in (stop, gateway.access.failed)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        notify_stopping()
        for task in (reloading, *ends):
            task.cancel()
    if gateway.access.failed.is_set():
        raise BerthError("berth-web has ended itself, since it could not end visits in time", hint="see its log")


@asynccontextmanager
async def serve_web(settings: WebProcessSettings) -> AsyncIterator[WebGateway]:
    """Serve browsers and the controller during the block."""
    shutil.rmtree(settings.tunnels, ignore_errors=True)
    key = WebKey(settings.directory)
    await key.make()
    client, entrances, haproxy = WebControllerClient(settings.api_socket), Entrances(), Haproxy(settings)
    grants = GrantStore(settings.grants_file)
    access = BrowserAccess(settings, haproxy, client, grants, key)

    live = LiveSessions(client)

    async def close(ended: EndedVisits) -> None:
        entrances.end(ended)
        live.end(ended)
        await access.close(ended)

    origins = settings.origins
    portal = make_portal(PortalContext(origins, client, entrances, live, settings.provider))
    app = HostRouter(origins, portal, ServiceFace(origins, access, entrances, PortalServicePages(origins)))
    control = UnixHttpServer(
        settings.control_socket,
        control_app(close),
        lambda uid: may_control(uid, settings.api_socket),
        mode=0o666,  # the client's account decides
    )
    app_server = UnixHttpServer(settings.app_socket, app, lambda uid: uid == os.geteuid())
    async with grants, live, app_server, haproxy, access, control:
        with publish_metrics(settings.metrics_listen, haproxy, access, live):
            yield WebGateway(haproxy, access, entrances)


async def _reload_on_change(haproxy: Haproxy, certificate: Path | None, requested: asyncio.Event) -> None:
    """Reload HAProxy on request, and when the file of the certificate has changed."""
    present = _version(certificate)
    while True:
        try:
            await asyncio.wait_for(requested.wait(), CERTIFICATE_CHECK_S)
        except TimeoutError:
            if _version(certificate) == present:
                continue
        requested.clear()
        present = _version(certificate)
        try:
            await haproxy.reload()
            log.info("haproxy reloaded")
        except BerthError as error:
            log.error("haproxy not reloaded error=%s hint=%s", error.message, error.hint)
        except OSError as error:
            log.error("haproxy not reloaded error=%s", error)


def _version(file: Path | None) -> tuple[int, int] | None:
    try:
        status = None if file is None else file.stat()
    except OSError:  # it is being replaced
        return None
    return None if status is None else (status.st_ino, status.st_mtime_ns)


@contextmanager
def _exclusive_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of the runtime directory. ConflictError if another process has it."""
    try:
        file = (directory / "lock").open("w+")
    except OSError as error:
        hint = f"make {directory}, which belongs to the account of web.account"
        raise ConflictError(f"the runtime directory cannot be used: {error}", hint=hint) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError("berth-web runs already", hint="`systemctl status berth-web` shows it") from None
        yield
