"""Record each connection: a line in the log at its end, and records that the controller keeps.

The log does not depend on the controller. The controller gets records in batches, from the beginning of a connection.
Later records of a connection replace earlier ones, so nothing is counted twice, and a lost response does no harm. While
the controller is away, records wait, up to a limit (ADR 47).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from broker.errors import BerthError
from broker.names import new_id
from broker.schema.connections import ConnectionRecord, ConnectionReport
from broker.service.log_limit import ALWAYS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from broker.gateway.counters import Counters
    from broker.gateway.relay import Relay
    from broker.schema.connections import ResolveAnswer

GATHER_S = 1.0
"""Time for which records are collected before they are sent."""
RETRY_S = 5.0
"""Pause before a failed report is repeated."""
REPORT_INTERVAL_S = 60.0
"""Time between two reports of an open connection. After three missed reports, the controller counts it as lost."""
MAX_BATCH_RECORDS = 400
"""Records of one report; a record has up to 500 bytes, a request to the controller at most 256 KiB."""
MAX_PENDING_RECORDS = 20_000
"""Waiting records; further ones are in the log only."""
LAST_REPORT_TIMEOUT_S = 3.0
"""Time for the last records of a gateway that ends."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """The user and the key of a login; made once per connection and never changed."""

    user: str
    fingerprint: str
    certificate: str = ""
    """The certificate, if the login used one."""


class ConnectionAudit:
    """Reports to the controller, as an async context manager.

    A connection that is still open at its exit counts as ended.
    """

    def __init__(self, tell: Callable[[ConnectionReport], Awaitable[object]], gateway: str, counts: Counters) -> None:
        """`gateway`: the name of this gateway, such as its login node's name."""
        self._tell = tell
        self._counts = counts
        self._gateway = gateway
        self._standing: dict[Relay, _OpenConnection] = {}
        self._due: dict[str, ConnectionRecord] = {}
        self._news = asyncio.Event()
        self._full = False
        counts.now["unreported"] = lambda: len(self._due)

    async def __aenter__(self) -> Self:
        self._tasks = (asyncio.create_task(self._report_new()), asyncio.create_task(self._report_open()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for relay in list(self._standing):
            self.record_end(relay, "gateway stopped")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_REPORT_TIMEOUT_S):
                while self._due and await self._report():
                    pass
        if self._due:
            _log.warning("the controller does not know of %d connections", len(self._due))

    def record_begin(self, relay: Relay, identity: ClientIdentity, peer: str, session: ResolveAnswer) -> None:
        """Record the beginning of a connection, before the client's first byte goes to the session."""
        record = ConnectionRecord(
            id=new_id(),
            user=identity.user,
            fingerprint=identity.fingerprint,
            peer=_NO_PEER.sub("-", peer)[:80],
            session_id=session.session_id,
            generation=session.generation,
            began_at=time.time(),
        )
        self._standing[relay] = _OpenConnection(record, f"{session.host}:{session.port}")
        self._counts.count("forwards", "opened")
        self._add(record)

    def record_end(self, relay: Relay, how: str) -> None:
        """Record the end of a connection; ignore one that has not begun."""
        stood = self._standing.pop(relay, None)
        if stood is None:
            return
        self._count_bytes(relay, stood)
        record = _now(stood.record, relay, ended_at=time.time(), end=how)
        self._add(record)
        _log.info(
            "%s",
            log_line(
                "forward",
                id=record.id,
                user=record.user,
                key=record.fingerprint,
                peer=record.peer,
                to=stood.to,
                session=record.session_id,
                generation=record.generation,
                sent=record.sent,
                received=record.received,
                seconds=round(time.time() - record.began_at, 1),
                end=how,
            ),
            extra=ALWAYS,
        )

    def _add(self, record: ConnectionRecord) -> None:
        if record.id not in self._due and len(self._due) >= MAX_PENDING_RECORDS:
            if not self._full:
                _log.error(
                    "%d connections wait to be recorded; the next ones are in this log only", MAX_PENDING_RECORDS
                )
            self._full = True
            self._counts.count("unrecorded")
            return
        self._due[record.id] = record
        self._news.set()

    async def _report_new(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            while self._due:
                if not await self._report():
                    await asyncio.sleep(RETRY_S)

    async def _report_open(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            for relay, stands in self._standing.items():
                self._count_bytes(relay, stands)
                self._add(_now(stands.record, relay))

    def _count_bytes(self, relay: Relay, stands: _OpenConnection) -> None:
        self._counts.count("bytes", "sent", by=relay.sent - stands.sent)
        self._counts.count("bytes", "received", by=relay.received - stands.received)
        stands.sent, stands.received = relay.sent, relay.received

    async def _report(self) -> bool:
        """Send the oldest batch; return False if it must be repeated."""
        batch = [self._due[each] for each in list(self._due)[:MAX_BATCH_RECORDS]]
        try:
            await self._tell(ConnectionReport(gateway=self._gateway, connections=batch))
        except BerthError as error:
            if error.status >= 500:
                return False
            _log.error("the controller refuses %d records of connections: %s", len(batch), error.message)
        for record in batch:
            if self._due.get(record.id) is record:
                del self._due[record.id]
        self._full = False
        return True


@dataclass(slots=True)
class _OpenConnection:
    """A connection that has not ended."""

    record: ConnectionRecord
    to: str
    """Node and port, for the log."""
    sent: int = 0
    received: int = 0
    """The number of its bytes that are in the counts."""


def _now(record: ConnectionRecord, relay: Relay, **changes: object) -> ConnectionRecord:
    return record.model_copy(update={"sent": relay.sent, "received": relay.received, **changes})


_NO_PEER = re.compile(r"[^0-9A-Za-z.:%-]")
"""Characters that a record's `peer` cannot have, and the interface name in an IPv6 address can."""
MAX_VALUE_CHARS = 256
"""Characters of one field of a line: clients choose names of any length."""
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+=-]+")


def log_line(event: str, **fields: object) -> str:
    """`event=… name=value …` on one line; what is not a plain word is a JSON string, so no client can forge a field."""
    return " ".join(f"{name}={_log_value(value)}" for name, value in {"event": event, **fields}.items())


def _log_value(value: object) -> str:
    text = str(value)
    if len(text) > MAX_VALUE_CHARS:
        text = f"{text[:MAX_VALUE_CHARS]}…"
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
