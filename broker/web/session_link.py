"""The tunnel to one session, connected when a service needs it and shared by the session's services."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from broker.schema.web import DoorRequest
from broker.web.tunnel import Tunnel

if TYPE_CHECKING:
    from pathlib import Path

    from broker.schema.web import DoorAnswer
    from broker.web.tunnel import WebKey


class DoorSource(Protocol):
    """The controller, as far as tunnels need it."""

    async def door(self, request: DoorRequest) -> DoorAnswer:
        """Return the way into a visit's session; BerthError if there is none now."""


class SessionLink:
    def __init__(self, directory: Path, key: WebKey, doors: DoorSource) -> None:
        self._directory = directory
        self._key = key
        self._doors = doors
        self._lock = asyncio.Lock()
        self._tunnel: Tunnel | None = None
        self._reader: asyncio.Task[None] | None = None

    async def connect(self, visit: str) -> Tunnel:
        """Return the tunnel. If there is none, make one with the right of the visit with this secret.

        BerthError, in words for the user, if the session cannot be reached.
        """
        async with self._lock:
            if self._tunnel is None or self._reader is None or self._reader.done():
                await self._close()
                door = await self._doors.door(DoorRequest(visit=visit, public_key=self._key.public))
                tunnel = Tunnel(self._directory, self._key, door)
                await tunnel.connect()
                self._tunnel, self._reader = tunnel, asyncio.create_task(tunnel.wait())
            return self._tunnel

    async def close(self) -> None:
        """Close the tunnel, if there is one."""
        async with self._lock:
            await self._close()

    async def _close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        if self._tunnel is not None:
            await self._tunnel.close()
        self._tunnel = self._reader = None
