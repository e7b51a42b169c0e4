"""Find worker processes whose event loop hangs, so that the master can kill and replace them.

Otherwise the clients in such a worker's queue would wait for ever. Each worker counts its beats in the table that it
shares with the master. The master looks at the counts and kills a worker whose count stays the same. It compares counts
and not times: when the machine or the master stood still, so did the looks.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.gateway.usage import Usage, UsageTable

LOOKS = 5
"""Looks in a row at the same count after which a worker hangs. One look may fall between two beats."""
BEAT_S = 0.2
"""Seconds between two beats. The workers of the past beat on as they began, so this is no setting."""


class Watchdog:
    """The master's side: compares the beats of workers with those of the last look."""

    def __init__(self, table: UsageTable, timeout_s: float) -> None:
        """`timeout_s`: how long a worker's event loop may stand still."""
        self._table = table
        self.interval_s = timeout_s / LOOKS
        self._seen: dict[int, tuple[int, int]] = {}
        """By process id: the count, and how many looks in a row have seen it."""

    def look(self, pids: Iterable[int]) -> list[int]:
        """Look at the workers `pids` once; return those that hang. A worker that has not begun to beat does not."""
        beats = {pid: self._table.beats(index) for index, pid in self._table.sections()}
        counts = {}
        for pid in pids:
            count = beats.get(pid, 0)
            if count:
                before, looks = self._seen.get(pid, (0, 0))
                counts[pid] = (count, looks + 1 if before == count else 1)
        self._seen = counts
        return [pid for pid, (_, looks) in counts.items() if looks > LOOKS]


async def beat(usage: Usage) -> None:
    """Show the master, until cancelled, that this worker's event loop runs."""
    while True:
        usage.beat()
        await asyncio.sleep(BEAT_S)
