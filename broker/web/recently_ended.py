"""Visits and delegations that have just ended, so that no answer still on its way opens them again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.schema.web import EndedVisits, VisitAnswer

MEMORY_S = 120.0
"""Time for which an end is remembered: longer than a call to the controller and a code take together."""


class RecentlyEnded:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._forget_at: dict[str, float] = {}
        """By the id, oldest first."""

    def add(self, ended: EndedVisits) -> None:
        now = self._clock()
        self._forget_at = {id_: at for id_, at in self._forget_at.items() if at > now}
        for id_ in (*ended.delegation_ids, *ended.visit_ids):
            self._forget_at[id_] = now + MEMORY_S

    def __contains__(self, visit: VisitAnswer) -> bool:
        """Whether the visit or its delegation has ended."""
        now = self._clock()
        return any(self._forget_at.get(id_, now) > now for id_ in (visit.id, visit.delegation_id))
