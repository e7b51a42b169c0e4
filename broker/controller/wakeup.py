"""Notify all waiting tasks that something in the registry has changed."""

from __future__ import annotations

import asyncio


class ChangeNotifier:
    """One broadcast for all waiters. Each waiter checks whether the change concerns it."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Wake all waiters. Call it on the event loop, after the change is committed."""
        self._next.set()
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return the event of the next change. Take it before you read the registry, so that no change is missed."""
        return self._next

    @staticmethod
    async def until(event: asyncio.Event, seconds: float, gone: asyncio.Event | None = None) -> None:
        """Wait for `event`, at most `seconds`, or until `gone` is set."""
        waits = [asyncio.ensure_future(each.wait()) for each in (event, gone) if each is not None]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
