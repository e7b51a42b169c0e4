"""Write the manifests of sessions: each always from the session's row as it is then, and one write at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.idle import idle_file
from broker.controller.registry.manifest import Manifest
from broker.controller.registry.models import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry

    Composer = Callable[[Session], Mapping[str, str] | None]

log = logging.getLogger(__name__)

CHOICES = ("grants", "connecting", "continuation", "idle", "stop_at", "stays")
"""The fields of a manifest that users change while a job is being submitted."""


def policy_files(session: Session) -> dict[str, str]:
    """Return the files of the session's policies, which its job reads while it runs."""
    return {"continuation": session.continuation_in_force + "\n", "idle": idle_file(session)}


class ManifestWriter:
    """The writer of manifest.json for all parts of the controller.

    A submission alone writes the manifest together with its job's files, and calls `correct` afterwards.
    """

    def __init__(self, registry: AsyncRegistry, launcher: LauncherClient) -> None:
        self._registry = registry
        self._launcher = launcher
        self._locks = WeakValueDictionary[str, asyncio.Lock]()
        """The lock for the manifest of a session, by its id."""
        self._results: dict[str, tuple[str, Mapping[str, Any]]] = {}
        """By the session's id, its pending operation whose result is in the manifest and not in the row: the
        operation's id, and the columns."""

    async def write(self, session_id: str, files: Composer | None = None) -> None:
        """Write the manifest, and with it the files that `files` returns for the row; none of them if it returns None.

        A pending operation whose result is not in the manifest yet is in it, so that a rebuilt registry resumes it.
        LauncherError if that failed.
        """
        async with self._locks.setdefault(session_id, asyncio.Lock()):
            session = await self._registry.require(session_id)
            others = {} if files is None else files(session)
            if others is not None:
                await self._install(session, {"manifest.json": self._text(session), **others})

    async def write_result(self, session_id: str, operation_id: str, columns: Mapping[str, Any]) -> None:
        """Write the manifest as it is after the pending operation, which changes these columns.

        Until `forget`, others write it so, too. LauncherError if that failed.
        """
        self._results[session_id] = operation_id, columns
        await self.write(session_id)

    def forget(self, session_id: str) -> None:
        """Forget the result of an operation: the row has it now."""
        self._results.pop(session_id, None)

    async def try_write(self, session: Session, files: Composer | None = None) -> None:
        """Write the manifest, and the files that `files` returns. A failure is logged: the next start writes them."""
        try:
            await self.write(session.id, files)
        except LauncherError as error:
            log.warning("manifest is behind %s error=%s", session.log_name, error.message)

    async def correct(self, session: Session, written: str) -> None:
        """Write the grants and policies again that have changed since the manifest `written` was composed.

        Without this, a submission that was under way at a revocation would leave the revoked grant. The rest of the
        manifest belongs to the submission and stays.
        """
        manifest = Manifest.model_validate_json(written)

        def corrected_files(current: Session) -> dict[str, str] | None:
            now = {field: getattr(Manifest.of(current), field) for field in CHOICES}
            corrected = manifest.model_copy(update=now)
            return None if corrected == manifest else {"manifest.json": corrected.text} | policy_files(current)

        if corrected_files(await self._registry.require(session.id)) is not None:
            await self.try_write(session, corrected_files)

    def _text(self, session: Session) -> str:
        operation = session.pending
        if operation is None:
            return Manifest.of(session).text
        known_id, columns = self._results.get(session.id, ("", {}))
        if known_id == operation.id:
            return Manifest.of(Session(**{**session.model_dump(), **columns})).text
        return Manifest.of(session, operation if operation.kind.in_manifest else None).text

    async def _install(self, session: Session, files: Mapping[str, str]) -> None:
        await self._launcher.install(session.owner, session.id, files)
