"""Find a session's snapshots by number or label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import with_user_errors
from broker.controller.reconcile.maintenance import reported_volumes
from broker.errors import NotFoundError

if TYPE_CHECKING:
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.schema.grants import SharedContent
    from broker.schema.volumes import SnapshotView


class SnapshotLookup:
    """Reads the record beside the layers, as the owner. No call raises LauncherError."""

    def __init__(self, launcher: LauncherClient, registry: AsyncRegistry) -> None:
        self._launcher = launcher
        self._registry = registry

    async def all(self, session: Session) -> list[SnapshotView]:
        """Return the session's snapshots, oldest first.

        The registry stores the volumes that are reported with them: a job that continues another one deletes automatic
        snapshots without a report.
        """
        snapshots, volumes = await with_user_errors(session.name, self._launcher.snapshots(session.owner, session.id))
        await self._registry.update(session.id, reported_volumes(session, volumes))
        return snapshots

    async def find(self, session: Session, reference: str) -> SnapshotView:
        """Return the snapshot with that number or label. NotFoundError if there is none."""
        for snapshot in await self.all(session):
            if reference in {str(snapshot.number), snapshot.label}:
                return snapshot
        raise NotFoundError(
            f"{session.name} has no snapshot {reference}", hint=f"`berth snapshots {session.name}` lists them"
        )

    async def shared_content(self, session: Session, reference: str) -> SharedContent:
        """Return what another user would get of a snapshot, and what is left out. NotFoundError if there is none."""
        number = (await self.find(session, reference)).number
        return await with_user_errors(session.name, self._launcher.survey(session.owner, session.id, number))
