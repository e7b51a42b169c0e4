"""Notify the waiting tasks of a session that it has changed, and the watches of its owner."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

MAX_REMEMBERED = 10_000
"""Sessions whose last change is remembered. A task that waits for another session is woken once too often at most."""


class ChangeNotifier:
    """Numbers the changes of sessions, and wakes those who wait for them. Use it on the event loop only.

    A task takes `number` before it reads the registry. Then `wait` returns at once if a session has changed meanwhile,
    so that no change is missed.
    """

    def __init__(self) -> None:
        self.number = 0
        """The number of the last change of any session."""
        self._latest: OrderedDict[str, int] = OrderedDict()
        """The number of the last change of each session, the oldest first."""
        self._forgotten = 0
        """The highest number that was removed from `_latest`."""
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._watches: dict[str, Callable[[str | None], None]] = {}
        """The function to call, by the owner of the sessions."""

    def announce(self, session_id: str, owner: str) -> None:
        """Wake the tasks that wait for the session and call the watches of its owner, after a change is committed."""
        self.notify(session_id)
        if report := self._watches.get(owner):
            report(session_id)

    def announce_all(self) -> None:
        """Call the watches of all owners for all their sessions, after a change of a fact that all views show."""
        self.number += 1
        for report in self._watches.values():
            report(None)

    def notify(self, session_id: str) -> None:
        """Wake the tasks that wait for the session, such as after the end of a task that has changed nothing."""
        self.number += 1
        self._latest[session_id] = self.number
        self._latest.move_to_end(session_id)
        if len(self._latest) > MAX_REMEMBERED:
            self._forgotten = self._latest.popitem(last=False)[1]
        for waiter in self._waiters.get(session_id, ()):
            waiter.set()

    def watch(self, owner: str, report: Callable[[str | None], None]) -> None:
        """Call `report` with the id of each session of `owner` that changes, or with None if all of them may have
        changed. An owner has one such function at a time.
        """
        self.number += 1  # so that no earlier number counts as a position in this watch
        self._watches[owner] = report

    def unwatch(self, owner: str) -> None:
        self._watches.pop(owner, None)

    def is_followed(self, session_id: str, owner: str) -> bool:
        """Whether a task waits for the session, or its owner watches all sessions."""
        return owner in self._watches or session_id in self._waiters

    async def wait(
        self, session_ids: Collection[str], since: int, seconds: float, gone: asyncio.Event | None = None
    ) -> None:
        """Return when one of the sessions changes after the change `since`, after `seconds`, or when `gone` is set."""
        if any(self._latest.get(each, self._forgotten) > since for each in session_ids):
            return
        changed = asyncio.Event()
        for each in session_ids:
            self._waiters[each].add(changed)
        try:
            await wait_for_any([changed] if gone is None else [changed, gone], seconds)
        finally:
            for each in session_ids:
                self._waiters[each].discard(changed)
                if not self._waiters[each]:
                    del self._waiters[each]


async def wait_for_any(events: Collection[asyncio.Event], seconds: float) -> None:
    """Return when one of the events is set, or after `seconds`."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
