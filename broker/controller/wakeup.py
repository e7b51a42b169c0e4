"""Notify all waiting tasks that something in the registry has changed."""

from __future__ import annotations

import asyncio


class ChangeNotifier:
    """One broadcast for all waiters. Each checks for itself whether the change is one that it waits for."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Wake everybody who waits now. Call it on the event loop, after the change is committed."""
        self._next.set()
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """The event of the next change: take it, look, and only then wait for it, so that no change is missed."""
        return self._next

    @staticmethod
    async def until(event: asyncio.Event, seconds: float, gone: asyncio.Event | None = None) -> None:
        """Wait for `event` for at most `seconds`, and no longer than until `gone` is set."""
        waits = [asyncio.ensure_future(each.wait()) for each in (event, gone) if each is not None]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
