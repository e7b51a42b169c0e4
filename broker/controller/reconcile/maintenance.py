"""Background maintenance: flatten deep stacks of layers, and remove layers that no record names.

Nobody waits for it, and an interruption loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.images import require_image
from broker.launcher.arguments import FlattenArguments
from broker.names import new_id
from broker.schema.sessions import STARTABLE, SessionState
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    from broker.config.settings import StorageSettings
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.launcher_client.volumes import GcResult
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.wakeup import ChangeNotifier
    from profiles.image.store import Stores

log = logging.getLogger(__name__)


class Maintenance:
    """Flattens stacks and collects layers, each session and each user at most once at a time."""

    def __init__(
        self,
        *,
        settings: StorageSettings,
        registry: AsyncRegistry,
        stores: Stores,
        launcher: LauncherClient,
        changes: ChangeNotifier,
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._registry = registry
        self._launcher = launcher
        self._changes = changes
        self._flattening = SingleFlight[str, "Session"](self._ended)
        self._collecting = SingleFlight[str, "GcResult"](self._ended)

    def look(self, session: Session) -> None:
        """Flatten a session without a job whose stacks are deeper than they may be."""
        layers = (session.volumes or {}).get("layers", {})
        deepest = max(layers.values(), default=0)
        if session.state in STARTABLE and session.pending is None and deepest > self._settings.flatten_at:
            self.flatten(session)

    def flatten(self, session: Session) -> asyncio.Task[Session]:
        """Begin, or join what is under way; the task returns the session as it then is. What the launcher is asked for
        meanwhile waits until its verb has let go of the session's record.
        """
        return self._flattening.join(session.id, lambda: self._flatten(session))

    def collect(self, user: str) -> asyncio.Task[GcResult]:
        """Begin to remove what nothing of the user's names, or join what is under way."""
        return self._collecting.join(user, lambda: self.collected(user))

    async def collected(self, user: str, *, dry_run: bool = False) -> GcResult:
        """Remove what nothing of the user's names; of deleted sessions, those whose grace is over."""
        over = await self._registry.kept_deleted(user, over_at=time.time())
        return await self._launcher.gc(user, over=[session.id for session in over], dry_run=dry_run)

    async def close(self) -> None:
        """End what is under way; it is done anew another time."""
        await self._flattening.close()
        await self._collecting.close()

    async def _flatten(self, session: Session) -> Session:
        image = await asyncio.to_thread(require_image, self._stores, *session.image.values())
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
        now = await self._registry.update(session.id, _flattened(session, volumes))
        self._changes.notify()
        self.collect(session.owner)
        return now

    async def _note_failure(self, session: Session) -> None:
        """Show what the session's record now says prevents flattening."""
        with contextlib.suppress(BerthError):  # the launcher is gone: the next operation shows it
            _, volumes = await self._launcher.snapshots(session.owner, session.id)
            await self._registry.update(session.id, _flattened(session, volumes))
            self._changes.notify()

    @staticmethod
    def _ended(key: str, task: asyncio.Task[Session] | asyncio.Task[GcResult]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, BerthError):  # the next time is soon enough
            log.warning("upkeep for %s was not done: %s", key, error.message)
        else:
            log.error("upkeep for %s failed", key, exc_info=error)


def _flattened(seen: Session, volumes: dict[str, object]) -> Transition:
    """Take over what the launcher told, unless something newer has been told since."""

    def decide(now: Session) -> RowChange | None:
        if now.volumes != seen.volumes or now.state is SessionState.DELETED:
            return None
        return {"volumes": volumes}, None

    return decide
