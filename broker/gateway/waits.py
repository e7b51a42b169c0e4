"""The sessions that clients of this worker wait for, and one request to the controller for all of them.

With one query for each client, clients that wait would occupy the few connections to the controller, and keep others
from logging in. So a client that waits takes only a row in a table (ADR 103).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.schema.base import KnownSession
from broker.schema.connections import MAX_WAITED_SESSIONS, GatewayWait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.schema.connections import GatewayWaitAnswer

HELD_S = 20.0
"""Time for which the controller may keep the question; less than the time after which it counts as lost."""
GATHER_S = 0.1
"""Time for which a question stays unchanged when a further session is waited for: many clients come at once."""
RETRY_S = 1.0
"""Pause before the next question after one without an answer, such as while the controller is restarted."""

_log = logging.getLogger(__name__)


class SessionWaits:
    """Asks `ask` for all waiting clients, with one question at a time, however many clients and sessions there are.

    Those beyond the question's room are not in it: they ask again when their time is over.
    """

    def __init__(self, ask: Callable[[GatewayWait], Awaitable[GatewayWaitAnswer]]) -> None:
        self._ask = ask
        self._waited: dict[str, _Waited] = {}
        """By session; those that were waited for first come first."""
        self._added = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None

    async def until_changed(self, session_id: str, revision: int, seconds: float) -> None:
        """Return when the session has another revision, or after so many seconds. Nothing is left when cancelled."""
        waited = self._waited.get(session_id)
        if waited is not None and waited.revision > revision:
            return
        if waited is None or waited.revision < revision:
            if waited is not None:
                waited.changed.set()
            waited = self._waited[session_id] = _Waited(revision)
            self._added.set()
        waited.clients += 1
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._keep_asking())
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waited.changed.wait(), seconds)
        finally:
            waited.clients -= 1
            self._forget(session_id, waited)

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _forget(self, session_id: str, waited: _Waited) -> None:
        if waited.clients == 0 and self._waited.get(session_id) is waited:
            del self._waited[session_id]
        if not self._waited:
            self.close()

    async def _keep_asking(self) -> None:
        while True:
            self._added.clear()
            sessions = [
                KnownSession(session_id=session_id, revision=waited.revision)
                for session_id, waited in islice(self._waited.items(), MAX_WAITED_SESSIONS)
            ]
            question = asyncio.ensure_future(self._ask(GatewayWait(sessions=sessions, seconds=HELD_S)))
            question.add_done_callback(_look_at)  # this task may be cancelled before it does
            added = asyncio.ensure_future(self._added.wait())
            try:
                await asyncio.wait({question, added}, return_when=asyncio.FIRST_COMPLETED)
                if not question.done():
                    await asyncio.wait({question}, timeout=GATHER_S)
                if question.done():
                    self._wake(question.result().changed)
            except BerthError as error:
                _log.debug("the controller is asked again for what clients wait for: %s", error.message)
                await asyncio.sleep(RETRY_S)
            finally:
                question.cancel()
                added.cancel()
                await asyncio.wait({question, added})
            if not self._waited:
                await self._added.wait()

    def _wake(self, changed: list[str]) -> None:
        for session_id in changed:
            waited = self._waited.pop(session_id, None)
            if waited is not None:
                waited.changed.set()


@dataclass(slots=True, eq=False)
class _Waited:
    """A session that clients wait for."""

    revision: int
    clients: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


def _look_at(question: asyncio.Future[GatewayWaitAnswer]) -> None:
    if not question.cancelled():
        question.exception()
