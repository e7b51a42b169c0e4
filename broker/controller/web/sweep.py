"""End what is over: visits to sessions that have stopped, and logins that have expired."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.schema.states import END_STATES
from broker.service.lasting_states import LastingStates

if TYPE_CHECKING:
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.wakeup import ChangeNotifier
    from broker.controller.web.control_client import ControlClient
    from broker.controller.web.visits import Visits

SWEEP_INTERVAL_S = 60.0
"""Time between two sweeps, if no visited session changes."""

log = logging.getLogger(__name__)


class WebSweep:
    """Sweeps after each change of a visited session, until cancelled."""

    def __init__(
        self, registry: AsyncRegistry, visits: Visits, control: ControlClient, changes: ChangeNotifier
    ) -> None:
        self._registry = registry
        self._visits = visits
        self._control = control
        self._changes = changes
        self._lasting = LastingStates(log)

    async def run(self) -> None:
        while True:
            self._visits.begun.clear()
            seen = self._changes.number
            visited: list[str] = []
            try:
                visited = await self.sweep()
                self._lasting.end("sweep")
            except Exception as error:  # noqa: BLE001 - the loop must outlive any single failure
                self._lasting.report("sweep", logging.ERROR, f"a sweep of web access failed: {error!r}", cause=error)
            await self._changes.wait(visited, seen, SWEEP_INTERVAL_S, self._visits.begun)

    async def sweep(self) -> list[str]:
        """End what is over, and return the ids of the sessions that have visits.

        berth-web itself closes what expires: it knows the time.
        """
        ended = await self._registry.end_visits(END_STATES)
        if ended:
            await self._control.close(visits=ended)
        await self._registry.forget_delegations(clock.now())
        return await self._registry.visited_sessions()
