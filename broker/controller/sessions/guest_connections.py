"""The guests whom each worker of a gateway has connected, and whether it has closed those whose access has ended.

Each worker keeps one request open, which has the list of its guests. The answer names those whose access has ended, and
the worker's next list proves that their connections are closed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.controller.wakeup import wait_for_any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CUT_TIMEOUT_S = 2.0
"""Seconds in which a worker must close the connections of a guest whose access has ended, and say so."""
LOST_AFTER_S = 90.0
"""Seconds after which a worker without a request has closed all of its guests' connections by itself (LEASE_S of
broker/gateway/guests.py)."""

Guest = tuple[str, str]
"""A session's id and a user."""


@dataclass(slots=True)
class _Worker:
    number: int
    guests: frozenset[Guest]
    heard_at: float
    """The time of the event loop at which its last request began or ended."""
    has_left: bool = False
    """Whether the worker has closed the connection of its request. If no other follows, the worker has ended."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class GuestConnections:
    """The lists of all workers. `is_admitted` says whether a guest may stay connected."""

    def __init__(self, is_admitted: Callable[[Guest], bool]) -> None:
        self._is_admitted = is_admitted
        self._workers: dict[str, _Worker] = {}
        self._listed = asyncio.Event()
        """Set at each new list."""

    async def report(
        self, worker_id: str, number: int, guests: Iterable[Guest], seconds: float, gone: asyncio.Event | None = None
    ) -> list[Guest]:
        """Replace the list of a worker, unless that has a higher number. Return those whose access has ended, as soon
        as there are any.

        Return none after `seconds`, or when `gone` is set.
        """
        loop = asyncio.get_running_loop()
        self._forget_lost(loop.time())
        before = self._workers.get(worker_id)
        if before is not None and before.number > number:
            return []
        worker = _Worker(number, frozenset(guests), loop.time())
        self._workers[worker_id] = worker
        if before is not None:
            before.wake.set()
        self._listed.set()
        self._listed = asyncio.Event()
        ends = loop.time() + seconds
        while True:
            worker.heard_at = loop.time()
            ended = [guest for guest in sorted(worker.guests) if not self._is_admitted(guest)]
            left = ends - loop.time()
            worker.has_left = gone is not None and gone.is_set()
            if ended or left <= 0 or worker.has_left or self._workers.get(worker_id) is not worker:
                return ended
            worker.wake.clear()
            await wait_for_any([worker.wake] if gone is None else [worker.wake, gone], left)

    def is_connected(self, guest: Guest) -> bool:
        """Whether a worker has a connection of the guest."""
        return any(guest in worker.guests for worker in self._workers.values())

    async def cut(self, guests: frozenset[Guest]) -> bool:
        """Return whether all workers have closed the connections of these guests, who are no longer admitted.

        Return False if one has not done so within CUT_TIMEOUT_S.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + CUT_TIMEOUT_S
        for worker in self._workers.values():
            if worker.guests & guests:
                worker.wake.set()
        while True:
            self._forget_lost(loop.time())
            listed = self._listed
            if not any(worker.guests & guests for worker in self._workers.values()):
                return True
            left = ends - loop.time()
            if left <= 0:
                return False
            await wait_for_any([listed], left)

    def _forget_lost(self, now: float) -> None:
        self._workers = {
            worker_id: worker
            for worker_id, worker in self._workers.items()
            if now - worker.heard_at < (CUT_TIMEOUT_S / 2 if worker.has_left else LOST_AFTER_S)
        }
