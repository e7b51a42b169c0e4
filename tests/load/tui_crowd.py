"""Many terminal interfaces in one process: their own workers, without screens.

Run on the lab's login node as `python -m tests.load.tui_crowd COUNT`, it prints `open` when each follows its user's
sessions. Each also reads the cluster again and again, as a user who looks at it does. When its standard input ends, it
prints how many of them are connected.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import TYPE_CHECKING

from tui.controller import open_controller
from tui.core.connection_state import Link
from tui.messages import ConnectionChanged
from tui.workers.feed_worker import FeedWorker
from tui.workers.requests import RequestWorker
from tui.workers.watch_feed import FeedOpener

if TYPE_CHECKING:
    from textual.message import Message

LOOK_S = 5.0
"""Seconds between two looks of one user at the cluster."""


class ScreenlessInterface:
    """All of `berth tui` except for what it draws."""

    def __init__(self) -> None:
        self.is_live = False
        self.connected = threading.Event()
        self._requests = RequestWorker(open_controller, time.time)
        self._worker = FeedWorker(FeedOpener(open_controller).open, self._take_message)
        self._worker.start()

    def _take_message(self, message: Message) -> None:
        if isinstance(message, ConnectionChanged):
            self.is_live = message.state.link is Link.LIVE
            self.connected.set()
        self._worker.take()

    async def look_at_the_cluster(self) -> None:
        """Read the cluster until the task is cancelled."""
        while True:
            await self._requests.read(lambda client: client.cluster())
            await asyncio.sleep(LOOK_S)


async def run(count: int) -> None:
    interfaces = [ScreenlessInterface() for _ in range(count)]
    for each in interfaces:
        await asyncio.to_thread(each.connected.wait)
    print("open", flush=True)
    async with asyncio.TaskGroup() as group:
        looks = [group.create_task(each.look_at_the_cluster()) for each in interfaces]
        await asyncio.to_thread(sys.stdin.read)
        for look in looks:
            look.cancel()
    print(sum(each.is_live for each in interfaces), flush=True)


if __name__ == "__main__":
    threading.stack_size(256 * 1024)
    asyncio.run(run(int(sys.argv[1])))
