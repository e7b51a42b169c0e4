"""Decide whether the comment of a session's job shows the session's name.

A job's comment is visible to all users, unless Slurm hides jobs of other users and accounting stores no comments.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.single_flight import SingleFlight
from slurm.scheduler import NoAnswer

if TYPE_CHECKING:
    from broker.config.settings import SlurmSettings
    from slurm.scheduler import Scheduler

log = logging.getLogger(__name__)

VALID_S = 600.0
"""Seconds for which Slurm's answer about its configuration is used."""
MAX_WAIT_S = 5.0
"""Seconds for which a submission waits for that answer."""


class NamePolicy:
    """The site's setting `slurm.show_names`, or else Slurm's PrivateData and AccountingStoreFlags."""

    def __init__(self, settings: SlurmSettings, scheduler: Scheduler) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self._are_hidden = False
        """Whether Slurm hides comments of other users' jobs, as it last answered."""
        self._answered_at: float | None = None
        self._query = SingleFlight[str, None]()

    async def are_shown(self) -> bool:
        """Return whether jobs may show the names of their sessions. Without an answer from Slurm they may not."""
        if self._settings.show_names is not None:
            return self._settings.show_names
        if self._answered_at is None or clock.monotonic() - self._answered_at >= VALID_S:
            await asyncio.wait({self._query.join("", self._ask)}, timeout=MAX_WAIT_S)
        return self._are_hidden and self._answered_at is not None

    async def close(self) -> None:
        """Cancel the query."""
        await self._query.close()

    async def _ask(self) -> None:
        try:
            hidden = await self._scheduler.private_data()
            self._are_hidden = "jobs" in hidden and not await self._scheduler.stores_comments()
            self._answered_at = clock.monotonic()
        except NoAnswer as error:
            self._answered_at = None
            log.warning("no answer about Slurm's configuration; names of sessions are not shown error=%s", error)
