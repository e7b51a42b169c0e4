"""The connections of guests to sessions of other users: closed as soon as the controller says that access has ended.

A worker keeps one request open, with the list of its guests. Every list is confirmed before a new connection carries a
byte. Without an answer for a minute, the worker closes the connections of all guests by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Self

from broker.errors import BerthError, ConflictError, RefusedError
from broker.gateway.audit import log_line
from broker.names import new_id
from broker.schema.connections import MAX_WORKER_GUESTS, GatewayGuests, GuestConnection
from broker.service.log_limit import ALWAYS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from broker.gateway.relay import Relay
    from broker.schema.connections import GatewayGuestsAnswer

HELD_S = 20.0
"""Seconds for which the controller may delay its answer."""
RETRY_S = 1.0
"""Seconds between a request without an answer and the next one."""
LEASE_S = 60.0
"""Seconds without an answer of the controller after which the worker closes guests' connections: as long as leases in
sessions last (LEASE_S of broker/job/guest/lease.py)."""

_log = logging.getLogger(__name__)


class GuestRelays:
    """The relays of guests, as an async context manager, which keeps the request open."""

    def __init__(self, report: Callable[[GatewayGuests], Awaitable[GatewayGuestsAnswer]]) -> None:
        self._report = report
        self._worker = new_id()
        self._number = 0
        self._relays: dict[GuestConnection, set[Relay]] = {}
        self._changed = asyncio.Event()
        self._confirmed = time.monotonic()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_reporting())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def add(self, guest: GuestConnection, relay: Relay) -> None:
        """Add a relay that carries nothing yet. Return when the controller knows of it.

        RefusedError if the guest's access has ended meanwhile; ConflictError beyond MAX_WORKER_GUESTS; raises as the
        request.
        """
        if guest not in self._relays and len(self._relays) >= MAX_WORKER_GUESTS:
            raise ConflictError("the gateway has too many guests now", hint="try again later")
        self._relays.setdefault(guest, set()).add(relay)
        try:
            answer = await self._ask(0.0)
        except BaseException:
            self.remove(guest, relay)
            raise
        if guest in answer.ended or relay not in self._relays.get(guest, ()):
            self._cut([guest])
            raise RefusedError("your access to this session has ended")
        self._changed.set()

    def remove(self, guest: GuestConnection, relay: Relay) -> None:
        """Forget a relay that has ended."""
        relays = self._relays.get(guest)
        if relays is not None:
            relays.discard(relay)
            if not relays:
                del self._relays[guest]
                self._changed.set()

    async def _keep_reporting(self) -> None:
        while True:
            self._changed.clear()
            if not self._relays:
                if self._number:  # the controller knows of some
                    await self._report_none()
                await self._changed.wait()
                self._confirmed = time.monotonic()
                continue
            report = asyncio.create_task(self._ask(HELD_S))
            changed = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait({report, changed}, timeout=self._seconds_left(), return_when=asyncio.FIRST_COMPLETED)
                if report.done():
                    self._cut(report.result().ended)
            except BerthError as error:
                _log.debug("the controller is asked again about guests: %s", error.message)
                await asyncio.sleep(RETRY_S)
            except Exception:  # noqa: BLE001 - the loop must cut guests off when their time is over
                _log.exception("a report of guests failed")
                await asyncio.sleep(RETRY_S)
            finally:
                report.cancel()
                changed.cancel()
                await asyncio.wait({report, changed})
            if self._relays and self._seconds_left() <= 0:
                _log.warning("no answer of the controller for %.0f s: guests are cut off", LEASE_S)
                self._cut(list(self._relays))

    async def _report_none(self) -> None:
        """Tell the controller that the last guest has gone. After a failure, the next list says so."""
        try:
            await self._ask(0.0)
        except BerthError as error:
            _log.debug("the controller does not know yet that the last guest has gone: %s", error.message)
        except Exception:  # noqa: BLE001 - the loop must cut guests off when their time is over
            _log.exception("a report of guests failed")

    def _seconds_left(self) -> float:
        return max(0.0, self._confirmed + LEASE_S - time.monotonic())

    async def _ask(self, seconds: float) -> GatewayGuestsAnswer:
        self._number += 1
        guests = list(self._relays)
        report = GatewayGuests(worker=self._worker, number=self._number, guests=guests, seconds=seconds)
        answer = await self._report(report)
        self._confirmed = time.monotonic()
        return answer

    def _cut(self, ended: list[GuestConnection]) -> None:
        """Close the relays of these guests, in this turn of the event loop."""
        for guest in ended:
            for relay in self._relays.pop(guest, set()):
                _log.info("%s", log_line("guest cut off", user=guest.user, session=guest.session_id), extra=ALWAYS)
                relay.close()
