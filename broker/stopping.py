"""The end that people ask for: now, or at a time, until when the session may be made to go on."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from broker import access
from broker.access import Verb
from broker.errors import ConflictError, InvalidInputError
from broker.launcher_error import LauncherError
from broker.manifest import Manifest
from broker.registry import Entry
from broker.schema import SessionState
from broker.state import LIVE
from broker.words import clock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.launching import Launcher
    from broker.models import Session
    from broker.registry import Decide, Decision, Registry
    from broker.schema import StopTime

log = logging.getLogger(__name__)

NO_TIME = {"stop_at": None, "stays": False}
"""Columns of a session that is to be stopped at no time."""


class Stopping:
    """Stops sessions whose time has come."""

    def __init__(self, registry: Registry, launcher: Launcher) -> None:
        self._registry = registry
        self._launcher = launcher

    async def choose(self, user: str, name: str, wanted: StopTime) -> Session:
        """Have the session stopped at a time, whatever job carries it then, or at none. With `keep` it goes on until
        then, whatever its policy says.

        InvalidInputError for a time that has passed, ConflictError for a session without a job.
        """
        session = await asyncio.to_thread(access.resolve, self._registry, user, user, name, Verb.STOP)
        if wanted.at is not None and wanted.at <= time.time():
            raise InvalidInputError(f"{clock(wanted.at)} is not in the future")
        session = await asyncio.to_thread(self._registry.update, session.id, _chosen(user, wanted))
        try:
            await self._launcher.install(session.owner, session.id, {"manifest.json": Manifest.of(session).text})
        except LauncherError as error:  # the next start writes it
            log.warning("the manifest of %s is behind: %s", session.id, error.message)
        return session

    async def see_to(self, sessions: Iterable[Session], now: float) -> list[Session]:
        """Stop those whose time has come; all of them as they are then."""
        return [
            await asyncio.to_thread(self._registry.update, session.id, _in_time(now))
            if _is_due(session, now)
            else session
            for session in sessions
        ]


def stop(user: str, detail: str = "", *, because: str = "") -> Decide:
    """Ask for the session's end; one without a job is stopped already. `because`: what is told of it afterwards."""

    def decide(now: Session) -> Decision | None:
        entry = Entry(user, "stop", detail)
        if now.state is SessionState.FAILED:
            return {"state": SessionState.STOPPED, **NO_TIME}, entry
        intent = now.pending
        if now.state in {SessionState.CHANGING, SessionState.STOPPING} and intent is not None and intent.start:
            return {"operation": intent.but(start=False).record(), **NO_TIME}, entry
        if now.state not in LIVE or now.state is SessionState.STOPPING:
            return None
        values = {"state": SessionState.STOPPING, "reason": "waiting for the job to end", "stop_reason": because}
        return values | NO_TIME, entry

    return decide


def _is_due(session: Session, now: float) -> bool:
    has_job = session.state in LIVE and session.state is not SessionState.STOPPING
    return has_job and session.stop_at is not None and session.stop_at <= now


def _in_time(at: float) -> Decide:
    because = "it was to be stopped then"
    return lambda now: stop("berth", because, because=because)(now) if _is_due(now, at) else None


def _chosen(user: str, wanted: StopTime) -> Decide:
    def decide(now: Session) -> Decision | None:
        if now.state not in LIVE or now.state is SessionState.STOPPING:
            raise ConflictError(f"{now.name} is {now.state.value}", hint=f"`berth start {now.name}` starts it")
        detail = "never" if wanted.at is None else f"{'keep until' if wanted.keep else 'at'} {clock(wanted.at)}"
        return {"stop_at": wanted.at, "stays": wanted.keep and wanted.at is not None}, Entry(user, "stop-time", detail)

    return decide
