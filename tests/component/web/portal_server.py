"""The portal over HTTP on a port of this machine, in a thread, for a real browser."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

from broker.origins import Origins
from broker.web.entrances import Entrances
from broker.web.portal.app import make_portal
from broker.web.portal.live_sessions import LiveSessions
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
        self._live = LiveSessions(self.controller)
        app = make_portal(PortalContext(self.origins, self.controller, Entrances(), self._live, "Example University"))
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    @property
    def url(self) -> str:
        return self.origins.portal_url

    def send(self, kind: str, data: dict[str, Any]) -> None:
        """Send an event of the controller's stream to the page that watches."""
        self._loop.call_soon_threadsafe(self.controller.events.put_nowait, (kind, data))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with self._live:
            await self._server.serve(sockets=[self._listener])


@contextmanager
def serving_portal() -> Iterator[PortalServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = PortalServer(listener)
        server.start()
        try:
            yield server
        finally:
            server.stop()
