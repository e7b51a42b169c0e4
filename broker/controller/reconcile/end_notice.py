"""Tell the terminals of a session who ends it, why, and how the user returns, before the job is cancelled or held.

The job reads `run/ending` when Slurm sends it SIGTERM, or the launcher asks it to wait (broker/job/node/messages.sh).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.stop import ENDED_BY_OPERATOR, STOPPED_BY
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.models import Session

log = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 0.5
"""Seconds by which a slow file system may delay the cancels of one tick."""


class EndNoticeWriter:
    """Writes run/ending for jobs that the controller is about to cancel or hold."""

    def __init__(self, launcher: LauncherClient) -> None:
        self._launcher = launcher
        self._writing = SingleFlight[str, None]()

    async def write(self, sessions: Iterable[Session]) -> None:
        """Write the file of each session that has been ready. Return after WRITE_TIMEOUT_S at the latest.

        A file that is late or cannot be written costs its message, not the stop.
        """
        tasks = {self._begin(session) for session in sessions if session.job.fingerprint}
        if tasks:
            await asyncio.wait(tasks, timeout=WRITE_TIMEOUT_S)

    async def close(self) -> None:
        """Cancel the writes."""
        await self._writing.close()

    def _begin(self, session: Session) -> asyncio.Task[None]:
        return self._writing.join(session.id, lambda: self._write(session))

    async def _write(self, session: Session) -> None:
        try:
            await self._launcher.install(session.owner, session.id, {"ending": ending_file(session)})
        except LauncherError as error:
            log.warning(
                "end notice not written user=%s session=%s error=%s", session.owner, session.name, error.message
            )


def ending_file(session: Session) -> str:
    """Return the content of run/ending: the submission that it is about, why its job ends, and how the user returns."""
    return "".join(f"{line}\n" for line in (session.submission, *_end_notice(session)))


def _end_notice(session: Session) -> tuple[str, str]:
    """Return why the session's job ends, and how the user returns: one line each."""
    restarts = f"{session.name} starts again by itself: connect again in a moment."
    stays_stopped = f"Its files are kept. `berth start {session.name}` starts it again."
    operation = session.pending
    if operation is not None and operation.kind.needs_stopped:
        why = f"{operation.actor} ends all programs here: the session is {operation.kind.participle}"
        return why, restarts if operation.start or operation.ran else stays_stopped
    if session.resizing:
        return "the session continues in a job with other resources", restarts
    if session.stop_reason.startswith(STOPPED_BY):
        return f"{session.stop_reason.removeprefix(STOPPED_BY)} stopped the session", stays_stopped
    if session.stop_reason.startswith(ENDED_BY_OPERATOR):
        who, _, why = session.stop_reason.removeprefix(ENDED_BY_OPERATOR).partition(": ")
        return f"operator {who} ends the session: {why}", stays_stopped
    if session.stop_reason:
        return f"Berth ends the session: {session.stop_reason}", stays_stopped
    return f"{session.owner} stopped the session", stays_stopped
