"""Wait a few seconds for a long request, and answer with the session or with the failure."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError, to_user_error
from broker.failpoints import failpoint

if TYPE_CHECKING:
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.reconcile.operation_runner import OperationRunner
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.wakeup import ChangeNotifier
    from broker.schema.sessions import SessionView

ANSWER_TIMEOUT_S = 8.0
"""Seconds that a request waits for its operation; then the answer shows the pending operation."""


class PendingOperations:
    """Waits for operations on behalf of their callers."""

    def __init__(
        self, *, registry: AsyncRegistry, operations: OperationRunner, reconciler: Reconciler, changes: ChangeNotifier
    ) -> None:
        self._registry = registry
        self._operations = operations
        self._reconciler = reconciler
        self._changes = changes

    def view(self, session: Session) -> SessionView:
        return self._reconciler.observed.view(session)

    def wake(self) -> None:
        """Wake the reconcile loop."""
        self._reconciler.wake()

    async def start_operation(self, session: Session) -> SessionView:
        """Start the operation that was just recorded in `session`, and wait a few seconds for its result.

        Return the session, perhaps with the operation still pending. If it has failed, its error is raised.
        """
        requested = session.pending
        assert requested is not None
        failpoint(f"{requested.verb}.intent-recorded")
        self._operations.resume([session])
        self._reconciler.wake()
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            seen = self._changes.number
            current = await self._registry.require(session.id)
            latest = current.last_operation
            if latest is not None and latest.id == requested.id and (error := latest.error()) is not None:
                raise error
            left = deadline - time.monotonic()
            if latest is None or latest.id != requested.id or not latest.pending or left <= 0:
                return self.view(current)
            await self._changes.wait([session.id], seen, left)

    async def wait_for_task(self, session: Session, task: asyncio.Task[Session]) -> SessionView:
        """Return the session after a background task, or as it is after a few seconds. The task's error is raised."""
        done, _ = await asyncio.wait({task}, timeout=ANSWER_TIMEOUT_S)
        if not done:
            return self.view(session)
        try:
            return self.view(task.result())
        except LauncherError as error:
            raise to_user_error(error, session.name) from error
