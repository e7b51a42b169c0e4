"""Stream the sessions of a user as they change (`GET /v1/sessions/watch`).

All streams of one user share one feed, which reads each changed session once and keeps its newest record. A stream has
no queue: it has a position, and sends the records that are newer. So a slow reader gets the newest state, and several
changes of one session are merged. Without streams, nothing is read or kept.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from broker.controller.sessions.access import is_allowed
from broker.controller.wakeup import wait_for_any
from broker.errors import BerthError, TooManyError
from broker.schema.permissions import Permission
from broker.schema.states import SessionState
from broker.schema.watch import CHANGE_EVENT, SNAPSHOT_EVENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from broker.config.settings import WatchSettings
    from broker.controller.reconcile.observed_slurm import ObservedSlurm
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.wakeup import ChangeNotifier

log = logging.getLogger(__name__)

MERGE_S = 0.1
"""Seconds between two events of a stream. Changes within this time are merged."""
FEED_TTL_S = 60.0
"""Seconds for which a feed without streams is kept, so that a client that reconnects can resume."""
MAX_REMOVED = 1000
"""Ids of deleted sessions that a feed keeps. A client that has not heard of an older one gets a snapshot."""
MAX_DIGITS = 18
"""Digits of the number in a revision."""
CHUNK_BYTES = 64 * 1024
"""Bytes of an event that are passed to the connection at once; the next ones follow when the client has read them."""


class _Record(NamedTuple):
    """A session as JSON, and the number of the change that made it so."""

    number: int
    content: bytes


class _Feed:
    """The newest records of the sessions of one user, kept up to date by the notifications of changes."""

    def __init__(self, owner: str, registry: AsyncRegistry, observed: ObservedSlurm, changes: ChangeNotifier) -> None:
        self._owner = owner
        self._registry = registry
        self._observed = observed
        self._changes = changes
        self._records: dict[str, _Record] = {}
        self._removed: OrderedDict[str, int] = OrderedDict()
        """The number of the change that removed each session, the oldest first."""
        self._outdated: set[str] = set()
        """The ids of the sessions to read."""
        self._all_outdated = True
        self._lock = asyncio.Lock()
        self.changed = asyncio.Event()
        """Set when a session is outdated. Each refresh makes another event."""
        changes.watch(owner, self._note)
        self.number = self._resumable = changes.number
        """The last change that the records include, and the first position from which a stream can be resumed."""

    def close(self) -> None:
        self._changes.unwatch(self._owner)

    def can_resume(self, position: int) -> bool:
        return self._resumable <= position <= self.number

    def _note(self, session_id: str | None) -> None:
        if session_id is None:
            self._all_outdated = True
        else:
            self._outdated.add(session_id)
        self.changed.set()

    async def refresh(self) -> None:
        """Read the outdated sessions. BerthError if the registry cannot be read; then they stay outdated."""
        async with self._lock:
            if not self._all_outdated and not self._outdated:
                return
            number, everything, ids = self._changes.number, self._all_outdated, self._outdated
            self._all_outdated, self._outdated, self.changed = False, set(), asyncio.Event()
            try:
                sessions = await (self._registry.sessions_of(self._owner) if everything else self._registry.by_ids(ids))
                contents = await asyncio.to_thread(self._render, sessions)
            except BaseException:
                self._all_outdated |= everything
                self._outdated |= ids
                self.changed.set()
                raise
            self._replace(contents, set(self._records) | ids if everything else ids, number)

    def _render(self, sessions: list[Session]) -> dict[str, bytes]:
        return {
            session.id: self._observed.view(session).model_dump_json().encode()
            for session in sessions
            if session.state is not SessionState.DELETED and is_allowed(self._owner, session, Permission.SEE)
        }

    def _replace(self, contents: dict[str, bytes], ids: set[str], number: int) -> None:
        """Replace the records of the sessions `ids`, and add new ones."""
        for session_id, content in contents.items():
            self._removed.pop(session_id, None)
            if session_id not in self._records or self._records[session_id].content != content:
                self._records[session_id] = _Record(number, content)
        for session_id in ids - set(contents):
            if self._records.pop(session_id, None) is not None:
                self._removed[session_id] = number
        while len(self._removed) > MAX_REMOVED:
            self._resumable = max(self._removed.popitem(last=False)[1], self._resumable)
        self.number = number

    def snapshot(self) -> list[bytes]:
        return [record.content for record in self._records.values()]

    def since(self, position: int) -> tuple[list[bytes], list[str]]:
        """Return the records that have changed after the position, and the ids of sessions that were removed."""
        changed = [record.content for record in self._records.values() if record.number > position]
        return changed, [session_id for session_id, number in self._removed.items() if number > position]


class SessionStream:
    """One stream: its position in the feed of its user. Close it when its connection ends."""

    def __init__(
        self, watches: SessionWatches, user: str, feed: _Feed, position: int | None, watch_id: str = ""
    ) -> None:
        """`position`: the last change that the client knows; None for a client that knows nothing.

        `watch_id`: tells the events from those of other streams on the same connection.
        """
        self._watches = watches
        self._label = f'"watch":"{watch_id}",' if watch_id else ""
        self._user = user
        self._feed = feed
        self._position = position

    def close(self) -> None:
        self._watches.leave(self._user)

    async def events(self, stopping: asyncio.Event) -> AsyncIterator[bytes]:
        """Yield the parts of the stream until `stopping` is set, or until the registry cannot be read."""
        while not stopping.is_set():
            try:
                await self._feed.refresh()
            except BerthError as error:
                log.warning("stream of changes ended user=%s error=%s", self._user, error.message)
                return
            changed = self._feed.changed
            sent = False
            for part in self._next_event():
                sent = True
                yield part
            if sent:
                await wait_for_any([stopping], MERGE_S)
            await wait_for_any([changed, stopping], self._watches.heartbeat)
            if not changed.is_set():
                yield b": alive\n\n"

    def _next_event(self) -> Iterator[bytes]:
        """Return the parts of the event that brings the client up to date; none if it is."""
        position, number = self._position, self._feed.number
        revision = f"{self._watches.boot_id}-{number}"
        self._position = number
        if position is None:
            head, records, tail = SNAPSHOT_EVENT, self._feed.snapshot(), "]}"
            begin = f'{{{self._label}"revision":"{revision}","sessions":['
        else:
            records, removed = self._feed.since(position)
            if not records and not removed:
                return iter(())
            quoted = ",".join(f'"{session_id}"' for session_id in removed)
            head, tail = CHANGE_EVENT, f'],"removed":[{quoted}]}}'
            begin = f'{{{self._label}"revision":"{revision}","changed":['
        return _parts(f"event: {head}\nid: {revision}\ndata: {begin}".encode(), records, f"{tail}\n\n".encode())


def _parts(head: bytes, records: list[bytes], tail: bytes) -> Iterator[bytes]:
    """Yield an event in parts of about CHUNK_BYTES."""
    part = bytearray(head)
    for index, record in enumerate(records):
        part += b"," + record if index else record
        if len(part) >= CHUNK_BYTES:
            yield bytes(part)
            part.clear()
    yield bytes(part + tail)


class SessionWatches:
    """The feeds and streams of all users."""

    def __init__(
        self, *, settings: WatchSettings, registry: AsyncRegistry, observed: ObservedSlurm, changes: ChangeNotifier
    ) -> None:
        self._registry = registry
        self._observed = observed
        self._changes = changes
        self.heartbeat = settings.heartbeat
        """Seconds without an event after which a stream sends a comment."""
        self._max_streams = settings.max_user_streams
        self.boot_id = secrets.token_hex(4)
        """Distinguishes the revisions of this process from those of other ones."""
        self._feeds: dict[str, _Feed] = {}
        self._streams: Counter[str] = Counter()
        """The number of streams of each user."""

    async def open(self, user: str, since: str = "", watch_id: str = "") -> SessionStream:
        """Begin a stream that continues after the revision `since`, or with a snapshot if that is not possible.

        TooManyError if the user has too many streams. The caller closes the stream.
        """
        if self._streams[user] >= self._max_streams:
            raise TooManyError(
                f"limit of watches reached ({self._streams[user]} of {self._max_streams})",
                hint="end some of your programs that watch sessions, such as `berth list --watch`",
            )
        self._streams[user] += 1
        if user not in self._feeds:
            self._feeds[user] = _Feed(user, self._registry, self._observed, self._changes)
        feed = self._feeds[user]
        try:
            await feed.refresh()
        except BaseException:
            self.leave(user)
            raise
        boot_id, _, number = since.partition("-")
        is_number = number.isdecimal() and len(number) <= MAX_DIGITS
        known = boot_id == self.boot_id and is_number and feed.can_resume(int(number))
        return SessionStream(self, user, feed, int(number) if known else None, watch_id)

    def leave(self, user: str) -> None:
        """Count a stream as ended. The feed is dropped if the user has none for some time."""
        self._streams[user] -= 1
        if not self._streams[user]:
            del self._streams[user]
            asyncio.get_running_loop().call_later(FEED_TTL_S, self._drop, user, self._feeds[user])

    def _drop(self, user: str, feed: _Feed) -> None:
        if user not in self._streams and self._feeds.get(user) is feed:
            del self._feeds[user]
            feed.close()
