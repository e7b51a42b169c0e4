"""Tells everybody who waits that something in the registry has changed."""

from __future__ import annotations

import asyncio
import contextlib


class Changes:
    """One broadcast for all waiters: each looks for itself whether the change is one that it waits for."""

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
    async def until(event: asyncio.Event, seconds: float) -> None:
        """Wait for `event` for at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)
