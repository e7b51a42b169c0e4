"""The way to one session: a tunnel, which is connected when a service needs it and shared by the session's services.

A guest's is for one service alone.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from broker.schema.web import DoorRequest
from broker.web.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from broker.web.controller_client import WebControllerClient
    from broker.web.tunnel import WebKey


class SessionLink:
    """A new tunnel is made if the present one has ended or does not reach a service; a former one serves its users."""

    def __init__(self, directory: Path, key: WebKey, controller: WebControllerClient) -> None:
        self._directory = directory
        self._key = key
        self._controller = controller
        self._lock = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._present: Tunnel | None = None
        self._users: dict[Tunnel, int] = {}
        """The number of services that use each tunnel."""

    @property
    def tunnel_count(self) -> int:
        """The number of tunnels that are open."""
        return sum(tunnel.is_open for tunnel in self._users)

    @asynccontextmanager
    async def use(self, visit: str, unfit: Tunnel | None = None) -> AsyncIterator[Tunnel]:
        """Yield the tunnel. If there is none but `unfit`, make one with the right of the visit with this secret.

        BerthError, in words for the user, if the session cannot be reached.
        """
        async with self._lock:
            tunnel = self._present
            if tunnel is None or tunnel is unfit or not tunnel.is_open:
                tunnel = await self._connect(visit)
            self._users[tunnel] += 1
        try:
            yield tunnel
        finally:
            self._users[tunnel] -= 1
            await self._close_former()

    async def close(self) -> None:
        """Close all tunnels."""
        async with self._lock:
            self._present = None
            for tunnel in list(self._users):
                await tunnel.close()
            self._users.clear()
            shutil.rmtree(self._directory, ignore_errors=True)

    async def _connect(self, visit: str) -> Tunnel:
        door = await self._controller.door(DoorRequest(visit=visit, public_key=self._key.public))
        tunnel = Tunnel(self._directory / str(next(self._numbers)), self._key, door)
        await tunnel.connect()
        self._present, self._users[tunnel] = tunnel, 0
        await self._close_former()
        return tunnel

    async def _close_former(self) -> None:
        """Close those that no service uses any more."""
        for tunnel in [each for each, users in self._users.items() if not users and each is not self._present]:
            del self._users[tunnel]
            await tunnel.close()
