"""Visits: the permission of one logged-in browser to use one service of a session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.registry.registry import EventEntry
from broker.controller.registry.web_models import Visit
from broker.controller.sessions.status_line import status_line
from broker.controller.web.secret import hash_secret, new_secret
from broker.errors import ConflictError, LoggedOutError, NotFoundError
from broker.names import new_id
from broker.schema.permissions import Permission
from broker.schema.states import END_STATES
from broker.schema.web import ValidVisits, VisitAnswer

if TYPE_CHECKING:
    from broker.controller.reconcile.observed_slurm import ObservedSlurm
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.web_models import Delegation
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.shared_services import SharedServices
    from broker.controller.web.control_client import ControlClient
    from broker.controller.web.guest_visits import GuestVisits
    from broker.controller.web.service_hosts import ServiceHosts
    from broker.schema.web import VisitCheck, VisitRequest
MAX_USER_VISITS = 200
"""Visits of one user at once. Each is an entry and a server in berth-web's HAProxy, which has all users' visits."""


class Visits:
    """The visits of all browsers. Each call asks `access` first."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        control: ControlClient,
        hosts: ServiceHosts,
        shared: SharedServices,
        guests: GuestVisits,
        observed: ObservedSlurm,
    ) -> None:
        self._access = access
        self._registry = registry
        self._control = control
        self._hosts = hosts
        self._shared = shared
        self._guests = guests
        self._observed = observed
        self.begun = asyncio.Event()
        """Set by each new visit."""

    async def begin(self, delegation: Delegation, request: VisitRequest) -> VisitAnswer:
        """Let the delegation's browser use a service until the delegation ends, and a guest's grant.

        The browser's earlier visit to the service ends, and berth-web closes it before this returns. NotFoundError for
        a session that the user may not visit; ConflictError for one that neither runs nor waits; TooManyError if the
        user visits MAX_USER_VISITS services; for guests also the errors of SharedServices.check_visit.
        """
        session, service = await self._find(delegation.user, request)
        is_guest = session.owner != delegation.user
        if is_guest:
            await self._shared.check_visit(session, service)
        elif session.state in END_STATES:
            raise ConflictError(status_line(self._observed, session), hint=f"`berth start {session.name}` starts it")
        until = await self._guests.visit_end(delegation.user, session, service)
        secret = new_secret()
        visit = Visit(
            id=new_id(),
            secret_hash=hash_secret(secret),
            delegation_id=delegation.id,
            user=delegation.user,
            session_id=session.id,
            service=service,
            created_at=clock.now(),
            expires_at=min(delegation.expires_at, until),
        )
        replaced = await self._registry.add_visit(visit, MAX_USER_VISITS)
        if replaced is None:
            raise LoggedOutError(
                "this browser has been logged out", hint="`berth portal` prints a link that logs it in"
            )
        self.begun.set()
        if replaced:
            await self._control.close(visits=replaced)
        if is_guest:
            await self._note_guest(visit, session, is_new=not replaced)
        return self._answer(visit, session, secret)

    async def _note_guest(self, visit: Visit, session: Session, *, is_new: bool) -> None:
        """Record the guest's visit. NotFoundError if the grant has ended since it was looked up."""
        self._guests.begun.set()
        await self._guests.end_refused(session.id)
        if not await self._registry.valid_visits([visit.id], clock.now()):
            raise _ended_visit()
        if is_new:
            await self._registry.record(session, EventEntry(visit.user, "visit", f"{visit.service} in a browser"))

    def _answer(self, visit: Visit, session: Session, secret: str) -> VisitAnswer:
        return VisitAnswer(
            id=visit.id,
            secret=secret,
            delegation_id=visit.delegation_id,
            user=visit.user,
            owner=session.owner,
            session_id=session.id,
            session=session.name,
            service=visit.service,
            host=self._hosts.host(session, visit.service),
            expires_at=visit.expires_at,
        )

    async def require(self, secret: str) -> tuple[Visit, Session]:
        """Return the visit with this secret, and its session. NotFoundError if it has ended."""
        visit = await self._registry.find_visit(hash_secret(secret), clock.now())
        if visit is not None:
            session = await self._registry.get(visit.session_id)
            if session is not None and await self._guests.visit_end(visit.user, session, visit.service):
                return visit, session
        raise _ended_visit()

    async def check(self, request: VisitCheck) -> ValidVisits:
        """Return those of the visits that are valid."""
        return ValidVisits(visit_ids=await self._registry.valid_visits(request.visit_ids, clock.now()))

    async def _find(self, user: str, request: VisitRequest) -> tuple[Session, str]:
        if request.host is not None:
            return await self._hosts.find(user, request.host)
        assert request.target is not None
        service = request.target.service
        return await self._access.resolve(user, request.target.session, Permission.VISIT, service), service


def _ended_visit() -> NotFoundError:
    return NotFoundError("this visit has ended", hint="open the service again from the portal")
