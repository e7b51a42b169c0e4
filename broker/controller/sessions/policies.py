"""Change a session's policies: continuation, idle time, stop time, and the action on a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.reconcile.manifests import policy_files
from broker.controller.registry.registry import EventEntry, JobChange
from broker.errors import ConflictError, InvalidInputError
from broker.format import format_time
from broker.schema.permissions import Permission
from broker.schema.sessions import LIVE, SessionState

if TYPE_CHECKING:
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.reconcile.manifests import ManifestWriter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.access import SessionAccess
    from broker.schema.sessions import ConnectPolicy, ContinuationChoice, IdleChoice, SessionView, StopTime


class Policies:
    """Sets each policy in the registry and in the files that the session's job reads."""

    def __init__(
        self, *, access: SessionAccess, registry: AsyncRegistry, manifests: ManifestWriter, reconciler: Reconciler
    ) -> None:
        self._access = access
        self._registry = registry
        self._manifests = manifests
        self._reconciler = reconciler

    async def set_continuation(self, user: str, name: str, choice: ContinuationChoice) -> SessionView:
        """Set whether another job continues the session; None selects the profile's policy, or else the site's.

        A queued successor is cancelled.
        """
        session = await self._update(user, name, Permission.SET, _set_continuation(user, choice.continuation or ""))
        return self._wake_and_view(session)

    async def set_idle(self, user: str, name: str, choice: IdleChoice) -> SessionView:
        """Set the idle time after which the session is stopped; None selects the profile's, or else the site's."""
        session = await self._update(user, name, Permission.SET, _set_idle(user, choice.idle or ""))
        return self._wake_and_view(session)

    async def set_stop_time(self, user: str, name: str, stop_time: StopTime) -> SessionView:
        """Set or clear the time at which the session is stopped. With `keep` the session continues until then, even if
        its policy would end it.

        InvalidInputError for a time that has passed, ConflictError for a session without a job.
        """
        await self._access.resolve(user, name, Permission.SET)
        if stop_time.at is not None and stop_time.at <= clock.now():
            raise InvalidInputError(f"{format_time(stop_time.at)} is not in the future")
        session = await self._update(user, name, Permission.SET, _set_stop_time(user, stop_time))
        return self._wake_and_view(session)

    async def set_connect(self, user: str, name: str, policy: ConnectPolicy) -> SessionView:
        """Set what a connection to the session does: the fields that `policy` has."""
        session = await self._update(user, name, Permission.SET, _set_connect(user, policy))
        return self._wake_and_view(session)

    async def _update(self, user: str, name: str, permission: Permission, decide: Transition) -> Session:
        """Change the policy in the registry, and in the manifest and the files that the job reads."""
        session = await self._access.resolve(user, name, permission)
        session = await self._registry.update(session.id, decide)
        await self._manifests.try_write(session, policy_files)
        return session

    def _wake_and_view(self, session: Session) -> SessionView:
        self._reconciler.wake()
        return self._reconciler.observed.view(session)


def _set_continuation(user: str, continuation: str) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if current.continuation == continuation:
            return None
        entry = EventEntry(user, "set", f"continue={continuation or 'default'}")
        if current.resizing:
            return {"continuation": continuation}, entry  # the policy does not concern its successor
        return JobChange({"continuation": continuation, "successor": 0}, entry, job={"successor_at": None})

    return decide


def _set_idle(user: str, idle: str) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if current.idle == idle:
            return None
        entry = EventEntry(user, "set", f"idle={idle or 'default'}")
        return JobChange({"idle": idle}, entry, job={"idle_stop_at": None})

    return decide


def _set_stop_time(user: str, stop_time: StopTime) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if current.state not in LIVE or current.state is SessionState.STOPPING:
            raise ConflictError(
                f"{current.name} is {current.state.value}", hint=f"`berth start {current.name}` starts it"
            )
        at, keep = stop_time.at, stop_time.keep
        detail = "never" if at is None else f"{'keep until' if keep else 'at'} {format_time(at)}"
        return {"stop_at": at, "stays": keep and at is not None}, EventEntry(user, "stop-time", detail)

    return decide


def _set_connect(user: str, policy: ConnectPolicy) -> Transition:
    def decide(current: Session) -> RowChange | None:
        changed = policy.model_dump(include=policy.model_fields_set)
        detail = ", ".join(f"{name}={'default' if value is None else value}" for name, value in changed.items())
        return {"connecting": current.connecting | changed}, EventEntry(user, "set", detail)

    return decide
