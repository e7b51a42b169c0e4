"""Warn and then stop idle sessions, if their owner, their profile or the site wants it.

What counts as use is measured where it happens: the job looks at processors, GPU and terminals and says in its comment
since when there was nothing (job/container/usage.sh), and connections tell what they carry (`connections`). What is
not known counts as use.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.scheduled_stop import stop
from broker.controller.reconcile.succession import seconds_of
from broker.controller.registry.registry import EventEntry, JobChange
from broker.errors import BerthError
from broker.format import format_duration, format_time
from broker.schema.connections import CONNECTION_TIMEOUT_S
from broker.schema.sessions import SessionState
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition

log = logging.getLogger(__name__)

WARNED = 600.0
"""Seconds before an idle session is stopped at which its owner is told; a quarter of a short idle time."""


class IdlePolicy:
    """Stops idle sessions, always after a warning."""

    def __init__(self, registry: AsyncRegistry, launcher: LauncherClient) -> None:
        self._registry = registry
        self._launcher = launcher
        self._knows_at = time.time() + CONNECTION_TIMEOUT_S
        """From when on every connection that stands has been told of."""
        self._telling = SingleFlight[str, None]()
        """What is being written for jobs, by session: nobody waits for a user's file system."""

    async def see_to(self, sessions: Iterable[Session], now: float) -> list[Session]:
        """Warn those that have been idle for long, stop those that were warned; all of them as they are then."""
        return [await self._see_to(session, now) if _differs(session, now) else session for session in sessions]

    async def close(self) -> None:
        """Give up what is being written: the next controller shows the same."""
        await self._telling.close()

    async def _see_to(self, session: Session, now: float) -> Session:
        if now < self._knows_at:
            return session
        try:
            seen = session.job.idle_stop_at
            session = await self._registry.update(session.id, _idle(now))
            if session.job.idle_stop_at not in {None, seen}:
                self._telling.join(session.id, lambda: self._tell(session))
        except BerthError:  # one session's trouble is not the others'
            log.exception("%s was not seen to", session.id)
        return session

    async def _tell(self, session: Session) -> None:
        """Have the job know, which tells its terminals."""
        try:
            await self._launcher.install(session.owner, session.id, {"idle": idle_file(session)})
        except LauncherError as error:  # it is shown by `berth list` all the same
            log.warning("the terminals of %s are not told: %s", session.id, error.message)


def idle_file(session: Session) -> str:
    """What the session's job reads: after which time without use it is stopped, and when it is to be stopped, if it
    is: seconds since the epoch.
    """
    at = "" if session.job.idle_stop_at is None else str(int(session.job.idle_stop_at))
    return f"{session.idle_in_force}\n{at}\n"


def stop_time(session: Session, now: float) -> float | None:
    """When the session is to be stopped because nothing uses it, if that is near: never sooner than it was warned."""
    since = session.unused_since
    if since is None or session.idle_in_force in {"never", ""} or session.root or session.stays:
        return None
    limit = seconds_of(session.idle_in_force)
    early = min(WARNED, limit / 4)
    if now < since + limit - early:
        return None
    return max(since + limit, now + early) if session.job.idle_stop_at is None else session.job.idle_stop_at


def _differs(session: Session, now: float) -> bool:
    at = stop_time(session, now)
    return at != session.job.idle_stop_at or (at is not None and now >= at)


def _idle(now: float) -> Transition:
    def decide(session: Session) -> RowChange | None:
        if session.state is not SessionState.READY:
            return None
        at, since = stop_time(session, now), session.unused_since
        if at is None or since is None:
            return JobChange({}, EventEntry("berth", "used"), job={"idle_stop_at": None})
        idle = f"nothing had used it for {format_duration(now - since)}"
        if now >= at:
            return stop("berth", idle, because=idle)(session)
        entry = EventEntry("berth", "idle", f"since {format_time(since)}; it is stopped {format_time(at)}")
        return JobChange({}, entry, job={"idle_stop_at": at})

    return decide
