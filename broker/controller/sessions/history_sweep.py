"""Remove events, ended jobs and records of deleted sessions that are older than the site wants to keep them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.registry.history_rows import RemovedHistory
from broker.service.lasting_states import LastingStates

if TYPE_CHECKING:
    from broker.controller.registry.async_registry import AsyncRegistry

log = logging.getLogger(__name__)

DAY_S = 86400.0
PAUSE_S = 0.2
"""Seconds between two transactions of a sweep, in which other writers get the database."""


class HistorySweep:
    """Sweeps at the controller's start and then each day, until cancelled."""

    def __init__(self, registry: AsyncRegistry, *, days: float) -> None:
        self._registry = registry
        self._kept_s = days * DAY_S
        self._lasting = LastingStates(log)

    async def run(self) -> None:
        while True:
            try:
                await self.sweep()
                self._lasting.end("sweep")
            except Exception as error:  # noqa: BLE001 - the loop must outlive any single failure
                self._lasting.report("sweep", logging.ERROR, f"old history not removed error={error!r}", cause=error)
            await asyncio.sleep(DAY_S)

    async def sweep(self) -> RemovedHistory:
        """Remove what is too old, in short transactions. Return and log the numbers of removed rows."""
        before = clock.now() - self._kept_s
        total = RemovedHistory(0, 0, 0)
        while any(removed := await self._registry.remove_history(before)):
            total = RemovedHistory(*map(sum, zip(total, removed, strict=True)))
            await asyncio.sleep(PAUSE_S)
        if any(total):
            log.info("history removed events=%d jobs=%d deleted_sessions=%d", *total)
        return total
