"""Deleted sessions: their data is set aside at once and removed for good when the grace time is over; until then they
can be brought back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from broker import access
from broker.access import Verb
from broker.backoff import Backoff
from broker.deeds import in_words
from broker.errors import BerthError, ConflictError
from broker.failpoints import failpoint
from broker.intent import Intent
from broker.launcher_error import LauncherError
from broker.manifest import CHANGING
from broker.registry import Entry
from broker.schema import SessionState, SessionView
from broker.single_flight import SingleFlight
from broker.volume_schema import GcReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.answering import Answering
    from broker.changes import Changes
    from broker.launching import Launcher
    from broker.limits import Limits
    from broker.models import Session
    from broker.registry import Decide, Decision, Registry
    from broker.upkeep import Upkeep

log = logging.getLogger(__name__)

FIRST_PAUSE, LAST_PAUSE = 1.0, 3600.0
"""Seconds before data that could not be removed is tried again: the first pause, since a job that has ended may have
it open for a moment, then doubling up to the last.
"""


class Deletion:
    """Removes what is to go, each session's data at most once at a time."""

    def __init__(self, *, registry: Registry, launcher: Launcher, changes: Changes) -> None:
        self._registry = registry
        self._launcher = launcher
        self._changes = changes
        self._running = SingleFlight[str, None](self._done)
        self._backoff = Backoff(FIRST_PAUSE, LAST_PAUSE)

    @property
    def under_way(self) -> bool:
        """Whether anything is being removed right now."""
        return len(self._running) > 0

    async def resume(self, sessions: Iterable[Session]) -> None:
        """Begin with what is to go: those of the sessions that are being deleted, and all whose grace is over."""
        going = [session for session in sessions if session.state is SessionState.DELETING]
        over = await asyncio.to_thread(self._registry.kept_deleted, over_at=time.time())
        for session in [*going, *over]:
            if self._backoff.due(session.id):
                self._running.join(session.id, partial(self._remove, session))

    async def close(self) -> None:
        """End what removes data; it goes on at the next start."""
        await self._running.close()

    def _done(self, session_id: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._backoff.failed(session_id)
            log.error("the removal of %s was interrupted", session_id, exc_info=error)
        self._changes.notify()

    async def _remove(self, session: Session) -> None:
        """Set the data aside or, if it is not to be kept (any more), remove it."""
        kept = session.state is SessionState.DELETING and session.kept_until is not None
        try:
            await self._launcher.trash(session.owner, session.id)
            failpoint("delete.set-aside")
            if not kept:
                await self._launcher.purge(session.owner, session.id)
        except BerthError as error:
            done = "set aside" if kept else "removed"
            log.warning("the data of %s could not be %s yet: %s", session.id, done, error.message)
            self._backoff.failed(session.id)
            reason = f"its data could not be {done} yet; Berth tries again: {error.message}"
            await asyncio.to_thread(self._registry.update, session.id, lambda _: ({"reason": reason}, None))
            return
        failpoint("delete.removed")
        self._backoff.forget(session.id)
        await asyncio.to_thread(self._registry.update, session.id, _gone(session))


class Deleted:
    """What people ask of deleted sessions."""

    def __init__(self, *, registry: Registry, upkeep: Upkeep, answering: Answering, limits: Limits) -> None:
        self._registry = registry
        self._upkeep = upkeep
        self._answering = answering
        self._limits = limits

    async def all(self, user: str) -> list[SessionView]:
        """The user's sessions that can be brought back, the one deleted last at the end."""
        found = await asyncio.to_thread(self._registry.kept_deleted, user)
        return [self._answering.view(session) for session in found if _can_come_back(session)]

    async def restore(self, user: str, name: str, new_name: str | None) -> SessionView:
        """Bring back the one of that name that was deleted last, stopped, under its name or another.

        ConflictError if that name is taken.
        """
        deleted = [each for each in await self._kept(user) if each.name == name]
        session = access.allowed_deleted(user, name, deleted[-1] if deleted else None, Verb.RESTORE)
        wanted = new_name or name
        try:
            async with self._limits.turn(user):
                await self._limits.check_another(user)
                session = await asyncio.to_thread(self._registry.update, session.id, _restore(user, wanted))
        except ConflictError as error:
            if error.hint:
                raise
            raise ConflictError(
                f"you have another session named {wanted}",
                hint=f"`berth restore {name} --as NEW` gives it another name",
            ) from error
        return await self._answering.carried_out(session)

    async def gc(self, user: str, *, dry_run: bool) -> GcReport:
        """Remove what nothing of the user's names, or say what would be removed."""
        try:
            found = await self._upkeep.collected(user, dry_run=dry_run)
        except LauncherError as error:
            raise in_words(error, "your sessions") from error
        rows = await asyncio.to_thread(self._registry.by_ids, found.sessions)
        names = sorted(row.name for row in rows if row.owner == user)
        return GcReport(layers=found.layers, bytes=found.bytes, sessions=names, dry_run=dry_run)

    async def _kept(self, user: str) -> list[Session]:
        found = await asyncio.to_thread(self._registry.kept_deleted, user)
        return [session for session in found if _can_come_back(session)]


def _can_come_back(session: Session) -> bool:
    return session.state is SessionState.DELETED and session.kept_until is not None and session.kept_until > time.time()


def _restore(user: str, name: str) -> Decide:
    def decide(now: Session) -> Decision | None:
        if not _can_come_back(now):
            raise ConflictError(f"{now.name} is being restored, or its grace is over", hint="`berth list` shows yours")
        intent = Intent.new("restore", user, arguments={"was": now.name})
        values = {"state": SessionState.CHANGING, "reason": CHANGING, "name": name, "operation": intent.record()}
        return values, Entry(user, "restore", "" if name == now.name else f"as {name}")

    return decide


def _gone(seen: Session) -> Decide:
    def decide(now: Session) -> Decision | None:
        if now.state is SessionState.DELETING:
            return {"state": SessionState.DELETED, "reason": ""}, Entry("berth", "deleted")
        if now.state is SessionState.DELETED and now.kept_until == seen.kept_until:
            return {"kept_until": None, "reason": ""}, Entry("berth", "purged")
        return None

    return decide
