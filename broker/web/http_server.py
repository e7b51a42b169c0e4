"""An HTTP server on a Unix socket, for clients of some accounts only (SO_PEERCRED in unix(7))."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from broker.service.lasting_states import LastingStates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from starlette.types import ASGIApp

MAX_HEAD_BYTES = 64 * 1024
KEEP_ALIVE_S = 60
STOP_TIMEOUT_S = 5
MAX_CONCURRENT_REQUESTS = 1024
"""Others are answered with 503."""
_UCRED = struct.Struct("iII")  # pid, uid, gid

log = logging.getLogger(__name__)


class UnixHttpServer:
    """An async context manager, in which an ASGI application is served at `path`."""

    def __init__(self, path: Path, app: ASGIApp, is_allowed: Callable[[int], bool], *, mode: int = 0o600) -> None:
        """`is_allowed` decides by the client's uid. `mode`: the permissions of the socket."""
        self._path = path
        self._mode = mode
        config = uvicorn.Config(
            app,
            http=_protocol(is_allowed),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            limit_concurrency=MAX_CONCURRENT_REQUESTS,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        self._path.chmod(self._mode)
        self._task = asyncio.create_task(self._server.serve([listener]))
        await self._server.listening.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


def _protocol(is_allowed: Callable[[int], bool]) -> type[H11Protocol]:
    """Return uvicorn's protocol for clients that `is_allowed` admits; it closes the connections of others."""
    states = LastingStates(log)

    class PeerProtocol(H11Protocol):
        _is_admitted = False

        def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - uvicorn declares its own Transport union
            uid = _peer_uid(transport.get_extra_info("socket"))
            self._is_admitted = is_allowed(uid)
            if self._is_admitted:
                super().connection_made(transport)
            else:
                states.report(
                    str(uid), logging.WARNING, f"connection refused uid={uid}"
                )  # once: it may try again for ever
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._is_admitted:
                super().connection_lost(exc)

    return PeerProtocol


def _peer_uid(connection: socket.socket) -> int:
    uid: int = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
    return uid
