"""The portal over HTTP on a port of this machine, in a thread, for a real browser."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from broker.origins import Origins
from broker.web.entrances import Entrances
from broker.web.portal.app import make_portal
from broker.web.portal.portal_context import PortalContext
from tests.deadlines import DEADLINE_S
from tests.fakes.portal_controller import FakePortalController

if TYPE_CHECKING:
    from collections.abc import Iterator


class PortalServer:
    """A portal that serves, its controller, and its address, which browsers resolve to this machine."""

    def __init__(self, listener: socket.socket) -> None:
        self.controller = FakePortalController()
        self.origins = Origins.parse(f"http://localhost:{listener.getsockname()[1]}")
        app = make_portal(PortalContext(self.origins, self.controller, Entrances(), "Example University"))
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    @property
    def url(self) -> str:
        return self.origins.portal_url

    def send(self, event: str) -> None:
        """Send an event of the controller's stream to the page that watches."""
        self._loop.call_soon_threadsafe(self.controller.events.put_nowait, event.encode())

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve(sockets=[self._listener]))


@contextmanager
def serving_portal() -> Iterator[PortalServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = PortalServer(listener)
        server.start()
        try:
            yield server
        finally:
            server.stop()
