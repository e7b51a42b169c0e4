"""Wait some seconds for a long request, and answer with the session or with the failure."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError, to_user_error
from broker.controller.wakeup import ChangeNotifier
from broker.failpoints import failpoint

if TYPE_CHECKING:
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.reconcile.operations import OperationRunner
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.schema.sessions import SessionView

ANSWER_WITHIN = 8.0
"""Seconds that a request waits for what it has asked for, before it is answered with what is under way."""


class PendingOperations:
    """Waits for operations on behalf of their callers."""

    def __init__(
        self, *, registry: AsyncRegistry, operator: OperationRunner, reconciler: Reconciler, changes: ChangeNotifier
    ) -> None:
        self._registry = registry
        self._operator = operator
        self._reconciler = reconciler
        self._changes = changes

    def view(self, session: Session) -> SessionView:
        return session.view(self._reconciler.stale_since)

    def changed(self) -> None:
        """Tell those who wait, and those who act."""
        self._changes.notify()
        self._reconciler.wake()

    async def wait_for_operation(self, session: Session) -> SessionView:
        """Have the operation just recorded in `session` carried out, as far as it is in a few seconds.

        Raises what a failed one says.
        """
        asked = session.pending
        assert asked is not None
        failpoint(f"{asked.verb}.intent-recorded")
        self._changes.notify()
        self._operator.resume([session])
        self._reconciler.wake()
        deadline = time.monotonic() + ANSWER_WITHIN
        while True:
            change = self._changes.next()
            now = await self._registry.require(session.id)
            said = now.intent
            if said is not None and said.id == asked.id and (error := said.error()) is not None:
                raise error
            left = deadline - time.monotonic()
            if said is None or said.id != asked.id or not said.pending or left <= 0:
                return self.view(now)
            await ChangeNotifier.until(change, left)

    async def wait_for_task(self, session: Session, task: asyncio.Task[Session]) -> SessionView:
        """The session once that background task has ended, or as it was after a few seconds; raises what it says."""
        done, _ = await asyncio.wait({task}, timeout=ANSWER_WITHIN)
        if not done:
            return self.view(session)
        try:
            return self.view(task.result())
        except LauncherError as error:
            raise to_user_error(error, session.name) from error
