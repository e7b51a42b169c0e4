"""Warn and then stop idle sessions, by the policy of their owner, their profile or the site.

The job measures the use of processors, GPU and terminals, and reports in its comment since when it is idle
(job/container/usage.sh). Connections report the bytes that they carry (`connections`). A session whose use is unknown
counts as used.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.stop import stop
from broker.controller.reconcile.succession import seconds_of
from broker.controller.registry.registry import EventEntry, JobChange
from broker.errors import BerthError
from broker.format import format_duration, format_time
from broker.schema.connections import CONNECTION_TIMEOUT_S
from broker.schema.sessions import SessionState
from broker.service.lasting_states import LastingStates
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition

log = logging.getLogger(__name__)

WARNING_S = 600.0
"""Seconds from the warning to the stop of an idle session, or a quarter of its idle time if that is less."""


class IdlePolicy:
    """Stops idle sessions, always after a warning."""

    def __init__(self, registry: AsyncRegistry, launcher: LauncherClient) -> None:
        self._registry = registry
        self._launcher = launcher
        self._knows_at = clock.now() + CONNECTION_TIMEOUT_S
        """The time from which every open connection has been reported."""
        self._lasting = LastingStates(log)
        self._writing = SingleFlight[str, None]()
        """Writes of files for jobs, by session, in the background: a user's file system may be slow."""

    async def enforce(self, sessions: Iterable[Session], now: float) -> list[Session]:
        """Warn sessions that are idle, and stop those whose warning time is over. Return all sessions, updated."""
        return [await self._enforce(session, now) if _differs(session, now) else session for session in sessions]

    async def close(self) -> None:
        """Cancel the writes; the next controller writes the same."""
        await self._writing.close()

    async def _enforce(self, session: Session, now: float) -> Session:
        if now < self._knows_at:
            return session
        try:
            before = session.job.idle_stop_at
            session = await self._registry.update(session.id, _apply_idle_policy(now))
            if session.job.idle_stop_at not in {None, before}:
                self._writing.join(session.id, lambda: self._warn(session))
        except BerthError as error:  # the other sessions are still processed
            text = f"idle policy not enforced {session.log_name} error={error.message}"
            self._lasting.report(session.id, logging.ERROR, text, cause=error)
        return session

    async def _warn(self, session: Session) -> None:
        """Write the stop time for the job, which shows it on its terminals."""
        try:
            await self._launcher.install(session.owner, session.id, {"idle": idle_file(session)})
        except LauncherError as error:  # `berth list` shows the stop time nevertheless
            log.warning("terminals not warned %s error=%s", session.log_name, error.message)


def idle_file(session: Session) -> str:
    """Return the content of run/idle for the session's job: its idle time, and its stop time or an empty line.

    The stop time is in seconds since the epoch.
    """
    at = "" if session.job.idle_stop_at is None else str(int(session.job.idle_stop_at))
    return f"{session.idle_in_force}\n{at}\n"


def stop_time(session: Session, now: float) -> float | None:
    """Return the time at which the idle session is stopped, None while that is not near. A warning precedes it."""
    since = session.unused_since
    if since is None or session.idle_in_force in {"never", ""} or session.root or session.stays:
        return None
    limit = seconds_of(session.idle_in_force)
    early = min(WARNING_S, limit / 4)
    if now < since + limit - early:
        return None
    return max(since + limit, now + early) if session.job.idle_stop_at is None else session.job.idle_stop_at


def _differs(session: Session, now: float) -> bool:
    at = stop_time(session, now)
    return at != session.job.idle_stop_at or (at is not None and now >= at)


def _apply_idle_policy(now: float) -> Transition:
    def decide(session: Session) -> RowChange | None:
        if session.state is not SessionState.READY:
            return None
        at, since = stop_time(session, now), session.unused_since
        if at is None or since is None:
            return JobChange({}, EventEntry("berth", "used"), job={"idle_stop_at": None})
        idle = f"idle for {format_duration(now - since)}"
        if now >= at:
            return stop("berth", idle, because=idle)(session)
        entry = EventEntry("berth", "idle", f"since {format_time(since)}; will stop at {format_time(at)}")
        return JobChange({}, entry, job={"idle_stop_at": at})

    return decide
