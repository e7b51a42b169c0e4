"""The requests of the site's operators: see, stop and extend the sessions of all users, and read the audit log."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.stop import ENDED_BY_OPERATOR, stop
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.operator_view import (
    OPERATOR_EXTEND,
    OPERATOR_MESSAGE,
    OPERATOR_STOP,
    event_for_operators,
    node_of,
    session_for_operators,
)
from broker.errors import BerthError, ConflictError, NotFoundError
from broker.names import MAX_OPERATOR_SESSIONS, split_reference
from broker.schema.admin import AuditReport, NodeReport, OperatorSessionList, SessionFailure, UserLimits
from broker.schema.permissions import Permission
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.extend import ExtendService
    from broker.controller.sessions.limits import Limits
    from broker.schema.admin import OperatorExtendRequest, OperatorSessionView

log = logging.getLogger(__name__)

MAX_WRITES = 16
"""Messages that are written at once for one request about a node."""


class OperatorService:
    """Requests of operators. Each call asks `access` first; each act is an event of the session, with the operator."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        extend: ExtendService,
        limits: Limits,
        launcher: LauncherClient,
        reconciler: Reconciler,
    ) -> None:
        self._access = access
        self._registry = registry
        self._extend = extend
        self._limits = limits
        self._launcher = launcher
        self._reconciler = reconciler

    async def sessions(
        self,
        user: str,
        *,
        owner: str | None = None,
        node: str | None = None,
        after: str | None = None,
        limit: int = MAX_OPERATOR_SESSIONS,
    ) -> OperatorSessionList:
        """Return the first `limit` sessions of all users, or of `owner`, or those with a job on a node.

        `after`: the `OWNER.NAME` behind which the list begins, whether or not it exists.
        """
        found: list[Session] = []
        behind = None if after is None else split_reference(after, "")
        log.info("operator reads sessions operator=%s owner=%s node=%s", user, owner or "", node or "")
        while True:
            page = await self._access.sessions_for_operator(user, owner, node=node, after=behind, limit=limit + 1)
            found += page if node is None else await self._on_node(page, node)
            if len(page) <= limit or len(found) > limit:
                break
            behind = (page[-1].owner, page[-1].name)
        return OperatorSessionList(sessions=[self._view(each) for each in found[:limit]], more=len(found) > limit)

    async def stop(self, user: str, reference: str, message: str) -> OperatorSessionView:
        """Request the session's stop. Its data remains. One without a job stays unchanged, and has no event."""
        session = await self._access.resolve_as_operator(user, reference, Permission.STOP)
        return self._view(await self._stop(user, session, message))

    async def extend(self, user: str, reference: str, request: OperatorExtendRequest) -> OperatorSessionView:
        """Extend the session's job, within the site's limit. Errors as ExtendService.extend."""
        session = await self._access.resolve_as_operator(user, reference, Permission.EXTEND)
        entry = EventEntry(user, OPERATOR_EXTEND, request.message)
        try:
            return self._view(await self._extend.extend_session(session, reference, request.seconds, entry))
        except ConflictError as error:  # the hint is for the owner
            raise ConflictError(error.message, hint="`berth admin list` shows its state") from error

    async def message(self, user: str, reference: str, message: str) -> OperatorSessionView:
        """Have the session's job write a line to its terminals, within a minute. ConflictError unless it is ready."""
        session = await self._access.resolve_as_operator(user, reference, Permission.MESSAGE)
        return self._view(await self._write(user, session, message))

    async def drain(self, user: str, node: str, message: str) -> NodeReport:
        """Stop all sessions with a job on the node, and report for which that failed, each with the remedy."""
        return await self._for_node(user, node, lambda session: self._stop(user, session, message, node))

    async def message_node(self, user: str, node: str, message: str) -> NodeReport:
        """Have the jobs of all ready sessions on the node write a line to their terminals."""
        return await self._for_node(user, node, lambda session: self._write(user, session, message))

    async def limits(self, user: str, of: str) -> UserLimits:
        """Return the limits of the user `of`, with their use. NotFoundError for a user without account and sessions."""
        sessions = await self._access.sessions_for_operator(user, of, limit=1)
        if not sessions and not await self._access.groups.has_account(of):
            raise NotFoundError(f"this machine knows no user named {of}", hint="name a user, as in `berth admin list`")
        log.info("operator reads limits operator=%s owner=%s", user, of)
        return UserLimits(user=of, limits=await self._limits.uses(of))

    async def audit(self, user: str, *, owner: str | None, since: float, limit: int) -> AuditReport:
        """Return the newest `limit` events of all users' sessions, or of those of `owner`, since that time."""
        await self._access.check_operator(user)
        log.info("operator reads events operator=%s owner=%s", user, owner or "")
        rows = await self._registry.audit_events(owner, since, limit + 1)
        return AuditReport(events=[event_for_operators(row) for row in rows[-limit:]], more=len(rows) > limit)

    async def _for_node(self, user: str, node: str, act: Callable[[Session], Awaitable[Session]]) -> NodeReport:
        sessions = await self._on_node(await self._access.sessions_for_operator(user, node=node), node)
        report = NodeReport(node=node, done=[], failed=[])
        places = asyncio.Semaphore(MAX_WRITES)

        async def act_on(session: Session) -> None:
            try:
                async with places:
                    report.done.append(self._view(await act(session)))
            except BerthError as error:
                name = session.full_name
                report.failed.append(SessionFailure(session=name, message=error.message, hint=error.hint))

        await asyncio.gather(*map(act_on, sessions))
        report.done.sort(key=lambda each: each.session)
        report.failed.sort(key=lambda each: each.session)
        return report

    async def _stop(self, user: str, session: Session, message: str, node: str = "") -> Session:
        session = await self._registry.update(session.id, _stop_as_operator(user, message, node))
        self._reconciler.wake()
        return session

    async def _write(self, user: str, session: Session, message: str) -> Session:
        name = session.full_name
        if session.state is not SessionState.READY or session.root:
            state = "in root mode" if session.root else session.state.value
            raise ConflictError(f"{name} is {state}: no terminal takes the message", hint="only ready sessions do")
        text = f"{session.submission}\n{clock.now()}\noperator {user}: {message}\n"
        try:
            await self._launcher.install(session.owner, session.id, {"message": text})
        except LauncherError as error:  # its message may have paths of the owner
            log.warning("message not written %s error=%s", session.log_name, error.message)
            raise BerthError(
                f"the message for {name} could not be written",
                hint="the controller's log has the cause; try again when the owner's file system answers",
            ) from error
        await self._registry.record(session, EventEntry(user, OPERATOR_MESSAGE, message))
        return session

    async def _on_node(self, sessions: list[Session], node: str) -> list[Session]:
        return [session for session in sessions if await self._node(session) == node]

    async def _node(self, session: Session) -> str:
        """Return the node of the session's job, also of one that is held for the session's next run."""
        if session.held_job_id is None:
            return node_of(session)
        jobs = await self._registry.jobs_of(session.id)
        return next((job.node for job in reversed(jobs) if job.job_id == session.held_job_id and job.node), "")

    def _view(self, session: Session) -> OperatorSessionView:
        return session_for_operators(session, self._reconciler.observed.stale_since)


def _stop_as_operator(user: str, message: str, node: str) -> Transition:
    """Return the change that stops a session; with `node`, only if its job has not left that node meanwhile."""
    transition = stop(user, message, because=f"{ENDED_BY_OPERATOR}{user}: {message}", action=OPERATOR_STOP)

    def decide(current: Session) -> RowChange | None:
        if node and current.held_job_id is None and node_of(current) != node:
            return None
        return None if current.state is SessionState.FAILED else transition(current)  # the failure stays as it is

    return decide
