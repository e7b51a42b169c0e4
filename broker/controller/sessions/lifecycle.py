"""Start, stop, delete and show sessions.

A call that changes a session records the intent first. Then it wakes the tasks that act on it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from broker.controller import clock
from broker.controller.reconcile.stop import STOPPED_BY, stop
from broker.controller.registry.manifest import ImageTarget
from broker.controller.registry.models import JobRow, Session
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.guest_view import events_for_guest, jobs_for_guest, limits_of, log_for_guest
from broker.controller.sessions.planned_change import PlannedChange
from broker.controller.sessions.start_again import check_unchanged, next_options, start_again
from broker.controller.sessions.upgrades import follow_of
from broker.errors import BerthError, ConflictError, InvalidInputError, NotFoundError, RefusedError
from broker.failpoints import failpoint
from broker.names import new_id
from broker.schema.permissions import Permission
from broker.schema.sessions import LIVE, STARTABLE, JobView, SessionState, SessionView, StartRequest
from broker.schema.site import EventView
from broker.text.log import without_noise
from broker.text.status import connection_event
from profiles.image.catalog import split_owner
from profiles.image.channels_file import CHANNELS
from slurm.sbatch import OptionError, check_options, merge_options

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.connections import Connections
    from broker.controller.sessions.limits import Limits
    from broker.controller.sessions.upgrades import UpgradeService
    from broker.controller.wakeup import ChangeNotifier

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 8.0
"""Seconds that `start` waits for Slurm's answer; then it returns a session in the state `submitting`."""


FAILED_CLONE_TTL_S = 3600.0
"""Seconds for which the error of a failed clone or restore is shown to a client that waits for the session."""


class Sessions:
    """Requests for sessions. Each call asks `access` first."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        connections: Connections,
        images: ImageFinder,
        launcher: LauncherClient,
        submitter: Submitter,
        reconciler: Reconciler,
        limits: Limits,
        changes: ChangeNotifier,
        upgrades: UpgradeService,
        grace: float,
    ) -> None:
        """`grace`: seconds that the data of a deleted session is kept."""
        self._access = access
        self._registry = registry
        self._connections = connections
        self._images = images
        self._launcher = launcher
        self._submitter = submitter
        self._reconciler = reconciler
        self._limits = limits
        self._changes = changes
        self._upgrades = upgrades
        self._grace = grace

    async def start(self, user: str, name: str, request: StartRequest, *, why: str = "") -> SessionView:
        """Create the session if it is new, and submit its job. `why` goes into the event log.

        A session that is starting or ready stays unchanged. One with an operation on its volumes starts after that. A
        guest starts a session as it is, for its owner.
        RefusedError has Slurm's message if Slurm refuses the job; ConflictError if the session has other properties.
        """
        _check([*request.options, *request.defaults])
        owner = user
        if "." in name:
            if request.model_copy(update={"defaults": []}) != StartRequest():  # defaults are for a new session
                raise RefusedError("a guest starts a session as it is", hint=f"`berth start {name}` has no options")
            owner = (await self._resolve(user, name, Permission.START)).owner
        async with self._limits.lock(owner):
            session = await self._find_to_start(user, name)
            if session is not None:
                request = self._without_owner(session, request)
            if session is None:
                session = await self._create(user, name, request)
            elif session.state in LIVE - {SessionState.STOPPING}:
                check_unchanged(session, request)
                return self._view(session)
            else:
                before = session.submission
                session = await self._start_again(user, await self._upgrades.look(session), request, why)
                if session.submission == before:
                    self._reconciler.wake()
                    return self._view(session)  # another request has started it, or an operation is pending
        failpoint("start.intent-recorded")
        attempt = self._submitter.submit(session)
        done, _ = await asyncio.wait({attempt}, timeout=ANSWER_TIMEOUT_S)
        self._reconciler.wake()
        return await self._current_view(session.id) if not done else self._view(attempt.result())

    async def _find_to_start(self, user: str, name: str) -> Session | None:
        """Return the session; None if it is the user's own and does not exist."""
        return await (self._resolve(user, name, Permission.START) if "." in name else self._registry.find(user, name))

    async def stop(self, user: str, name: str) -> SessionView:
        """Request the session's stop. Its data remains. A stopped session stays unchanged."""
        session = await self._resolve(user, name, Permission.STOP)
        because = "" if user == session.owner else f"{STOPPED_BY}{user}"
        session = await self._registry.update(session.id, stop(user, because=because))
        failpoint("stop.intent-recorded")
        self._reconciler.wake()
        return self._view(session)

    async def delete(self, user: str, name: str, *, purge: bool = False) -> SessionView:
        """Delete a session without a job; ConflictError while it may have one.

        Its data is kept for the grace time, unless `purge` is set.
        """
        plan = await self.plan_deletion(user, name, purge=purge)
        session = await self._registry.update(plan.session.id, plan.decide)
        failpoint("delete.intent-recorded")
        self._reconciler.wake()
        return self._view(session)

    async def plan_deletion(self, user: str, name: str, *, purge: bool = False) -> PlannedChange:
        """Find the session to delete."""
        session = await self._resolve(user, name, Permission.DELETE)
        kept_until = None if purge or not self._grace else clock.now() + self._grace
        return PlannedChange(session, _delete(user, kept_until))

    async def all(self, user: str) -> list[SessionView]:
        return [self._view(session) for session in await self._registry.sessions_of(user)]

    async def show(
        self,
        user: str,
        name: str,
        *,
        after: int | None = None,
        wait: float = 0,
        refresh: bool = False,
        gone: asyncio.Event | None = None,
    ) -> SessionView:
        """Return the session; with `after`, once its revision is greater than `after` or its place in the queue moves.

        Return an unchanged session after `wait` seconds, or when `gone` is set. `refresh`: query Slurm soon.
        """
        deadline = clock.monotonic() + wait
        first_place: tuple[int | None, float | None, str] | None = None
        if refresh:
            self._reconciler.refresh()
        while True:
            seen = self._changes.number
            try:
                session = await self._resolve(user, name, Permission.SEE)
            except NotFoundError as error:
                is_own = after is not None and "." not in name
                raise await self._creation_error(user, name, error) if is_own else error from None
            left = deadline - clock.monotonic()
            left_alone = gone is not None and gone.is_set()
            view = self._view(session)
            place = (view.ahead, view.expected_start_at, view.next_job_reason)
            first_place = first_place or place
            if after is None or view.revision > after or place != first_place or left <= 0 or left_alone:
                return view
            await self._changes.wait([session.id], seen, left, gone)

    async def _creation_error(self, user: str, name: str, error: NotFoundError) -> BerthError:
        """Return the error of the operation that failed to create the session recently, else `error`."""
        gone = await self._registry.last_deleted(user, name)
        operation = None if gone is None else gone.last_operation
        if (
            operation is None
            or not operation.kind.creates_session
            or clock.now() - operation.asked_at > FAILED_CLONE_TTL_S
        ):
            return error
        return operation.error() or error

    async def log(self, user: str, name: str, tail: int) -> str:
        """Return the end of the job's log, without lines that only look like faults, and for guests `log_for_guest`."""
        session = await self._resolve(user, name, Permission.LOG)
        text = without_noise(await self._launcher.log(session.owner, session.id, tail))
        return text if user == session.owner else log_for_guest(text)

    async def events(self, user: str, name: str | None = None, *, connections: bool = True) -> list[EventView]:
        """Return the events of one or all of the user's sessions, oldest first; `connections` adds connections.

        A guest sees those of `events_for_guest`, and no connections.
        """
        session = None if name is None else await self._resolve(user, name, Permission.LOG)
        is_guest = session is not None and session.owner != user
        owner, session_id = (user, None) if session is None else (session.owner, session.id)
        rows = await self._registry.events_of(owner, session_id)
        happened = [
            EventView(at=row.at, actor=row.actor, session=row.session, action=row.action, detail=row.detail)
            for row in rows
        ]
        if is_guest:
            happened = list(events_for_guest(user, owner, happened))
        elif connections:
            happened += [connection_event(each) for each in await self._connections.all(user, name)]
        return sorted(happened, key=lambda event: event.at)

    async def jobs(self, user: str, name: str) -> list[JobView]:
        """Return every job of the session, newest first."""
        session = await self._resolve(user, name, Permission.LOG)
        jobs = [record.view() for record in reversed(await self._registry.jobs_of(session.id))]
        return jobs_for_guest(user, session.owner, jobs)

    async def _create(self, user: str, name: str, request: StartRequest) -> Session:
        if request.profile is None:
            raise NotFoundError(
                f"you have no session named {name}",
                hint=f"`berth start {name} --profile PROFILE` makes one; `berth profile list` shows the profiles",
            )
        image = await self._images.find_image(user, request.profile, request.version)
        options = merge_options(request.defaults, request.options)
        gpus = self._submitter.check(image.profile, options)
        await self._limits.check_another(user)
        await self._limits.check_storage(user)
        await self._limits.check_start(user, gpus)
        now = clock.now()
        session = Session(
            **ImageTarget.of(image, request.persistence, follow=follow_of(request.version)).columns(),
            id=new_id(now),
            name=name,
            owner=user,
            state=SessionState.SUBMITTING,
            options=options,
            created_at=now,
            used_at=now,
            submission=1,
            submissions=1,
            first_start=True,
        )
        session.job_row = JobRow(session_id=session.id, submission=1, asked_at=now, options=options, gpus=gpus)
        return await self._registry.create(session, EventEntry(user, "start", f"{image.name}@{image.version}"))

    async def _start_again(self, user: str, session: Session, request: StartRequest, why: str) -> Session:
        try:
            image = await self._images.require_image(session.owner, *session.image.values())
        except BerthError:  # the submission reports this error
            gpus = session.job.gpus
        else:
            gpus = self._submitter.check(image.profile, next_options(session, request))
        with limits_of(session.owner, user):
            await self._limits.check_storage(session.owner)
            await self._limits.check_start(session.owner, gpus)
        return await self._registry.update(
            session.id, start_again(user, request, why, gpus, self._upgrades.offered_operation(session, gpus))
        )

    def _without_owner(self, session: Session, request: StartRequest) -> StartRequest:
        """Return the request for an existing session: with the bare name of its profile, and without a channel.

        ConflictError if the session has the other owner's.
        """
        if request.version in CHANNELS and request.version != session.version:
            request = request.model_copy(update={"version": None})  # it has the version that it was created with
        owner, name = split_owner(request.profile or "")
        if not owner:
            return request
        has = self._images.owner_of(session)
        if name == session.profile and owner != has:
            raise ConflictError(
                f"{session.name} was created from {has}/{session.profile}@{session.version}",
                hint=f"leave --profile out, or `berth switch {session.name} {request.profile}`",
            )
        return request.model_copy(update={"profile": name})

    async def _resolve(self, user: str, name: str, permission: Permission) -> Session:
        return await self._access.resolve(user, name, permission)

    async def _current_view(self, session_id: str) -> SessionView:
        session = await self._registry.get(session_id)
        assert session is not None
        return self._view(session)

    def _view(self, session: Session) -> SessionView:
        return self._reconciler.observed.view(session)


def _check(options: list[str]) -> None:
    try:
        check_options(options)
    except OptionError as error:
        raise InvalidInputError(str(error)) from error


def _delete(user: str, kept_until: float | None) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if current.state is SessionState.DELETING:
            return None
        if current.pending is not None and current.state not in LIVE:
            raise current.pending.conflict(current.name)
        if current.state not in STARTABLE:
            raise ConflictError(
                f"{current.name} cannot be deleted while it is {current.state.value}",
                hint=f"`berth stop {current.name}` ends its job first",
            )
        reason = "its data is being removed" if kept_until is None else "its data is being set aside"
        values: dict[str, Any] = {
            "state": SessionState.DELETING,
            "reason": reason,
            "kept_until": kept_until,
            "grants": [],
        }
        return values, EventEntry(user, "delete")

    return decide
