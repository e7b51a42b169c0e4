"""Streams of changes for berth-web: one connection has the changes for all browsers whose pages are open.

Each browser's watch is opened with its delegation, has the sessions of that user only, and ends with the delegation.
A watch has a position in the feed of its user and no queue. So a berth-web that reads slowly gets the newest states.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from broker.errors import ConflictError, NotFoundError, TooManyError
from broker.schema.web import WATCH_ENDED_EVENT, BrowserWatchAnswer
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.controller.registry.web_models import Delegation
    from broker.controller.sessions.watch import SessionStream, SessionWatches
    from broker.controller.web.browsers import Browsers
    from broker.schema.web import BrowserWatchRequest

MAX_STREAMS = 4
"""Streams at once: berth-web has one, and a further one after its restart until the former connection is closed."""
MAX_WATCHES = 10_000
"""Watches of one stream."""


class BrowserStream:
    """One connection of berth-web, and the watches in it. Close it when the connection ends."""

    def __init__(self, watches: SessionWatches, browsers: Browsers) -> None:
        self._sessions = watches
        self._browsers = browsers
        self._events: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        """The next event. Watches wait while there is one, and merge their changes meanwhile."""
        self._stopping = asyncio.Event()
        self._watches: SingleFlight[str, None] = SingleFlight(self._note_end)
        """By their ids."""
        self._open: dict[str, SessionStream] = {}
        """The streams that the watches follow, also that of a watch that has just ended."""
        self._own_tasks: list[asyncio.Task[None]] = []

    async def events(self, stopping: asyncio.Event) -> AsyncIterator[bytes]:
        """Yield events and heartbeats until `stopping` is set."""
        self._stopping = stopping
        self._own_tasks = [asyncio.create_task(each) for each in (self._beat(), self._end_with(stopping))]
        while event := await self._events.get():
            yield event

    async def add(self, delegation: Delegation, watch_id: str) -> None:
        """Begin a watch. TooManyError if the stream or the user has too many; ConflictError for an id twice."""
        if watch_id in self._open:
            raise ConflictError("there is a watch with this id")
        if len(self._open) >= MAX_WATCHES:
            raise TooManyError(f"{MAX_WATCHES} browsers are followed, as many as are allowed")
        stream = await self._sessions.open(delegation.user, watch_id=watch_id)
        if watch_id in self._open:
            stream.close()
            raise ConflictError("there is a watch with this id")
        self._open[watch_id] = stream
        self._watches.join(watch_id, lambda: self._follow(stream, delegation, watch_id))

    def remove(self, watch_id: str) -> bool:
        """End a watch; return whether there was one."""
        return self._watches.cancel(watch_id)

    def close(self) -> None:
        for task in (*self._watches.tasks, *self._own_tasks):
            task.cancel()

    def _note_end(self, watch_id: str, _: asyncio.Task[None]) -> None:
        """Close what a watch has followed, also one that was cancelled before it began."""
        self._open.pop(watch_id).close()

    async def _follow(self, stream: SessionStream, delegation: Delegation, watch_id: str) -> None:
        """Pass the events of a watch on until its login ends, or until the registry cannot be read."""
        over = asyncio.Event()
        login = asyncio.create_task(self._browsers.wait_ended(delegation, self._stopping))
        login.add_done_callback(lambda _: over.set())
        try:
            await self._pass_on(stream.events(over))
            end = json.dumps({"watch": watch_id, "logged_out": over.is_set() and not self._stopping.is_set()})
            await self._events.put(f"event: {WATCH_ENDED_EVENT}\ndata: {end}\n\n".encode())
        finally:
            login.cancel()

    async def _pass_on(self, parts: AsyncIterator[bytes]) -> None:
        event = bytearray()
        async for part in parts:
            event += part
            if part.endswith(b"\n\n"):
                if not event.startswith(b":"):  # the connection has its own heartbeats
                    await self._events.put(bytes(event))
                event.clear()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._sessions.heartbeat)
            await self._events.put(b": alive\n\n")

    async def _end_with(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        await self._events.put(b"")


class BrowserWatches:
    """The streams that berth-web has open."""

    def __init__(self, watches: SessionWatches, browsers: Browsers) -> None:
        self._sessions = watches
        self._browsers = browsers
        self._streams: dict[str, BrowserStream] = {}

    @property
    def heartbeat(self) -> float:
        """Seconds between two heartbeats."""
        return self._sessions.heartbeat

    def open(self, stream_id: str) -> BrowserStream:
        """Begin a stream without watches, which the caller closes. ConflictError for an id twice."""
        if stream_id in self._streams:
            raise ConflictError("there is a stream with this id")
        if len(self._streams) >= MAX_STREAMS:
            raise TooManyError(f"berth-web has {MAX_STREAMS} streams, as many as are allowed")
        self._streams[stream_id] = stream = BrowserStream(self._sessions, self._browsers)
        return stream

    def close(self, stream_id: str) -> None:
        """End a stream and its watches."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.close()

    async def add(self, delegation: Delegation, request: BrowserWatchRequest) -> BrowserWatchAnswer:
        """Begin a watch for the delegation's browser. NotFoundError if the stream has ended."""
        stream = self._streams.get(request.stream)
        if stream is None:
            raise NotFoundError("there is no such stream", hint="open another one")
        await stream.add(delegation, request.id)
        return BrowserWatchAnswer(delegation_id=delegation.id, expires_at=delegation.expires_at)

    def remove(self, watch_id: str) -> bool:
        """End a watch; return whether there was one."""
        return any(stream.remove(watch_id) for stream in list(self._streams.values()))
