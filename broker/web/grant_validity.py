"""The end of grants in time: of those that have expired, and of those whose visits the controller has ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NoReturn

from broker.schema.web import MAX_CHECKED
from broker.web.repetition import repeat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.web.controller_client import WebControllerClient
    from broker.web.grants import Grant, GrantStore

EXPIRY_S = 1.0
"""Time between two looks for grants that have expired."""
CHECK_S = 60.0
"""Time between two questions to the controller which visits are valid."""
CHECK_RETRY_S = 2.0


class GrantValidity:
    """Looks for grants that are no longer valid, and has them ended by `end`."""

    def __init__(
        self, grants: GrantStore, controller: WebControllerClient, end: Callable[[list[Grant]], Awaitable[None]]
    ) -> None:
        self._grants = grants
        self._controller = controller
        self._end = end

    async def watch_expiry(self) -> NoReturn:
        """End grants when they expire. Any error ends the watch: the process must then end, and with it all access."""
        while True:
            await self._end(self._grants.find_expired(time.time()))
            await asyncio.sleep(EXPIRY_S)

    async def watch_visits(self) -> NoReturn:
        """Ask the controller again and again: its message that visits have ended may have met no berth-web."""
        await repeat("check of visits", self._check_visits, CHECK_S, CHECK_RETRY_S)

    async def _check_visits(self) -> None:
        grants = list(self._grants)
        for first in range(0, len(grants), MAX_CHECKED):
            some = grants[first : first + MAX_CHECKED]
            valid = await self._controller.valid_visits([grant.visit.id for grant in some])
            await self._end([grant for grant in some if grant.visit.id not in valid])
        self._grants.confirmed.set()
