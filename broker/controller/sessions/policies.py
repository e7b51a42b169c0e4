"""Change a session's policies: continuation, idle time, stop time, and the action on a connection."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.idle import idle_file
from broker.controller.registry.manifest import Manifest
from broker.controller.registry.registry import EventEntry, JobChange
from broker.controller.sessions import access
from broker.errors import ConflictError, InvalidInputError
from broker.format import format_time
from broker.schema.permissions import Permission
from broker.schema.sessions import LIVE, SessionState

if TYPE_CHECKING:
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.wakeup import ChangeNotifier
    from broker.schema.sessions import ConnectPolicy, ContinuationChoice, IdleChoice, SessionView, StopTime

log = logging.getLogger(__name__)


class Policies:
    """Sets each policy in the registry and in the files that the session's job reads."""

    def __init__(
        self, *, registry: AsyncRegistry, launcher: LauncherClient, reconciler: Reconciler, changes: ChangeNotifier
    ) -> None:
        self._registry = registry
        self._launcher = launcher
        self._reconciler = reconciler
        self._changes = changes

    async def set_continuation(self, user: str, name: str, choice: ContinuationChoice) -> SessionView:
        """Decide whether another job continues the session when one has to end; None takes the profile's choice, or
        else the site's. A successor that is queued already, and is not wanted any more, is cancelled.
        """
        session = await self._update(user, name, Permission.SET, _continuation(user, choice.continuation or ""))
        await self._install(session, {"continuation": session.continuation_in_force + "\n"})
        return self._changed(session)

    async def set_idle(self, user: str, name: str, choice: IdleChoice) -> SessionView:
        """Decide after which time without use the session is stopped; None takes the profile's choice, or else the
        site's.
        """
        session = await self._update(user, name, Permission.SET, _idle(user, choice.idle or ""))
        await self._install(session, {"idle": idle_file(session)})
        return self._changed(session)

    async def set_stop_time(self, user: str, name: str, wanted: StopTime) -> SessionView:
        """Have the session stopped at a time, whatever job carries it then, or at none. With `keep` it continues until
        then, whatever its policy says.

        InvalidInputError for a time that has passed, ConflictError for a session without a job.
        """
        await access.resolve_own(self._registry, user, name, Permission.STOP)
        if wanted.at is not None and wanted.at <= time.time():
            raise InvalidInputError(f"{format_time(wanted.at)} is not in the future")
        session = await self._update(user, name, Permission.STOP, _stop_time(user, wanted))
        await self._install(session, {})
        return self._changed(session)

    async def set_connect(self, user: str, name: str, policy: ConnectPolicy) -> SessionView:
        """Change what connecting to the session does, as far as `policy` says anything of it."""
        session = await self._update(user, name, Permission.SET, _connect(user, policy))
        await self._install(session, {})
        return self._changed(session)

    async def _update(self, user: str, name: str, permission: Permission, decide: Transition) -> Session:
        session = await access.resolve_own(self._registry, user, name, permission)
        session = await self._registry.update(session.id, decide)
        self._changes.notify()
        return session

    async def _install(self, session: Session, files: dict[str, str]) -> None:
        """Write the files, and the manifest with them. A failure is logged: the next start writes them."""
        try:
            await self._launcher.install(
                session.owner, session.id, {"manifest.json": Manifest.of(session).text} | files
            )
        except LauncherError as error:
            log.warning("the manifest of %s is behind: %s", session.id, error.message)

    def _changed(self, session: Session) -> SessionView:
        self._reconciler.wake()
        return session.view(self._reconciler.stale_since)


def _continuation(user: str, continuation: str) -> Transition:
    def decide(now: Session) -> RowChange | None:
        if now.continuation == continuation:
            return None
        entry = EventEntry(user, "set", f"continue={continuation or 'default'}")
        return JobChange({"continuation": continuation, "successor": 0}, entry, job={"successor_at": None})

    return decide


def _idle(user: str, idle: str) -> Transition:
    def decide(now: Session) -> RowChange | None:
        if now.idle == idle:
            return None
        entry = EventEntry(user, "set", f"idle={idle or 'default'}")
        return JobChange({"idle": idle}, entry, job={"idle_stop_at": None})

    return decide


def _stop_time(user: str, wanted: StopTime) -> Transition:
    def decide(now: Session) -> RowChange | None:
        if now.state not in LIVE or now.state is SessionState.STOPPING:
            raise ConflictError(f"{now.name} is {now.state.value}", hint=f"`berth start {now.name}` starts it")
        detail = "never" if wanted.at is None else f"{'keep until' if wanted.keep else 'at'} {format_time(wanted.at)}"
        return {"stop_at": wanted.at, "stays": wanted.keep and wanted.at is not None}, EventEntry(
            user, "stop-time", detail
        )

    return decide


def _connect(user: str, policy: ConnectPolicy) -> Transition:
    def decide(now: Session) -> RowChange | None:
        changed = policy.model_dump(include=policy.model_fields_set)
        detail = ", ".join(f"{name}={'default' if value is None else value}" for name, value in changed.items())
        return {"connecting": now.connecting | changed}, EventEntry(user, "set", detail)

    return decide
