"""Background maintenance: flatten deep stacks of layers, and remove layers that no record names.

No request waits for these tasks. An interrupted task is repeated later.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from broker.controller import clock
from broker.errors import BerthError
from broker.launcher.arguments import FlattenArguments
from broker.names import new_id
from broker.schema.sessions import STARTABLE, SessionState
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    import asyncio

    from broker.config.settings import StorageSettings
    from broker.controller.images import ImageFinder
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.launcher_client.volumes import GcResult
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition

log = logging.getLogger(__name__)


class Maintenance:
    """Flattens stacks, one task for each session, and removes layers, one task for each user."""

    def __init__(
        self,
        *,
        settings: StorageSettings,
        registry: AsyncRegistry,
        images: ImageFinder,
        launcher: LauncherClient,
    ) -> None:
        self._settings = settings
        self._images = images
        self._registry = registry
        self._launcher = launcher
        self._flattening = SingleFlight[str, "Session"](self._log_failure)
        self._collecting = SingleFlight[str, "GcResult"](self._log_failure)

    def flatten_if_deep(self, session: Session) -> None:
        """Flatten a session without a job whose stacks have more than `storage.flatten_at` layers."""
        layers = (session.volumes or {}).get("layers", {})
        deepest = max(layers.values(), default=0)
        if session.state in STARTABLE and session.pending is None and deepest > self._settings.flatten_at:
            self.flatten(session)

    def flatten(self, session: Session) -> asyncio.Task[Session]:
        """Start a task that flattens the session's stacks, or join a running one. The task returns the changed session.

        Meanwhile, other launcher calls for the session wait for its lock.
        """
        return self._flattening.join(session.id, lambda: self._flatten(session))

    def schedule_gc(self, user: str) -> asyncio.Task[GcResult]:
        """Start a task that removes the data that no session of the user needs, or join a running one."""
        return self._collecting.join(user, lambda: self.run_gc(user))

    async def run_gc(self, user: str, *, dry_run: bool = False) -> GcResult:
        """Remove the layers that no session of the user needs, and deleted sessions whose grace time is over."""
        over = await self._registry.kept_deleted(user, over_at=clock.now())
        return await self._launcher.gc(user, over=[session.id for session in over], dry_run=dry_run)

    async def close(self) -> None:
        """Cancel the tasks; they are repeated later."""
        await self._flattening.close()
        await self._collecting.close()

    async def _flatten(self, session: Session) -> Session:
        image = await self._images.require_image(session.owner, *session.image.values())
        arguments = FlattenArguments(
            session=session.id,
            operation=new_id(),
            image=str(image.path),
            offset=image.offset,
            digest=image.digest,
        )
        try:
            volumes = await self._launcher.flatten(session.owner, arguments)
        except BerthError:
            await self._note_failure(session)
            raise
        current = await self._registry.update(session.id, reported_volumes(session, volumes))
        self.schedule_gc(session.owner)
        return current

    async def _note_failure(self, session: Session) -> None:
        """Copy the reason of the failure from the session's volumes.json to the registry."""
        with contextlib.suppress(BerthError):  # the launcher has ended: the next operation reports it
            _, volumes = await self._launcher.snapshots(session.owner, session.id)
            await self._registry.update(session.id, reported_volumes(session, volumes))

    @staticmethod
    def _log_failure(key: str, task: asyncio.Task[Session] | asyncio.Task[GcResult]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, BerthError):  # the next attempt is soon enough
            log.warning("maintenance failed key=%s error=%s", key, error.message)
        else:
            log.error("maintenance failed key=%s", key, exc_info=error)


def reported_volumes(observed: Session, volumes: dict[str, Any]) -> Transition:
    """Store the volumes that the launcher reported, unless newer ones have been stored since."""

    def decide(current: Session) -> RowChange | None:
        is_newer = current.volumes != observed.volumes
        if is_newer or current.volumes == volumes or current.state is SessionState.DELETED:
            return None
        return {"volumes": volumes}, None

    return decide
