"""Grants: who may act on a session beside its owner. `access` decides what a grant allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.registry.grant import SessionGrant
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.access import grants_to
from broker.controller.sessions.guest_view import seen_by
from broker.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError
from broker.format import format_time
from broker.schema.grants import GrantView, Role, SharedSession
from broker.schema.permissions import Permission
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from broker.config.sharing_settings import SharingSettings
    from broker.controller.reconcile.manifests import ManifestWriter
    from broker.controller.reconcile.observed_slurm import ObservedSlurm
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.access import SessionAccess
    from broker.schema.grants import ShareRequest

FUTURE_ROLES = frozenset({"watch", "pair", "port", "use"})
"""Roles that are planned."""


class ShareService:
    """Requests for grants. Each call asks `access` first."""

    def __init__(
        self,
        *,
        settings: SharingSettings,
        access: SessionAccess,
        registry: AsyncRegistry,
        manifests: ManifestWriter,
        observed: ObservedSlurm,
    ) -> None:
        self._settings = settings
        self._access = access
        self._registry = registry
        self._manifests = manifests
        self._observed = observed

    async def share(self, user: str, name: str, grantee: str, request: ShareRequest) -> GrantView:
        """Grant a role to a user or group, in place of an earlier grant to the same one.

        RefusedError if the site has no sharing or the session has as many grants as it allows; InvalidInputError for an
        unknown role, user or group, and for a time that has passed.
        """
        session = await self._access.resolve(user, name, Permission.SHARE)
        if not self._access.sharing:
            raise RefusedError(
                "this site does not share sessions", hint="sharing needs site mode and `sharing.enabled`"
            )
        role = _role(request.role)
        if grantee == session.owner:
            raise InvalidInputError("a session cannot be shared with its owner", hint="name another user, or a @GROUP")
        if request.until is not None and request.until <= clock.now():
            raise InvalidInputError(f"{format_time(request.until)} is not in the future")
        if not await self._access.groups.has_account(grantee):
            kind = "group" if grantee.startswith("@") else "user"
            raise InvalidInputError(
                f"this machine knows no {kind} named {grantee.removeprefix('@')}",
                hint="name a user, or a Unix group as @GROUP",
            )
        grant = SessionGrant(grantee=grantee, role=role, until=request.until, granted_at=clock.now())
        session = await self._registry.update(session.id, _add(user, grant, self._settings.max_grants))
        await self._manifests.try_write(session)
        return _view(session, grant)

    async def unshare(self, user: str, name: str, grantee: str) -> GrantView:
        """Revoke a grant, and return it. It gives nothing from then on. NotFoundError if there is none."""
        session = await self._access.resolve(user, name, Permission.SHARE)
        grant = _find(session, grantee)
        if grant is None:
            raise NotFoundError(
                f"{session.name} is not shared with {grantee}", hint=f"`berth shares {session.name}` lists its grants"
            )
        await self._remove(session, grant, EventEntry(user, "unshare", _detail(grant)))
        return _view(session, grant)

    async def all(self, user: str, name: str | None = None) -> list[GrantView]:
        """Return the grants on one or all of the user's sessions, also expired ones."""
        if name is None:
            sessions = await self._registry.sessions_of(user)
        else:
            sessions = [await self._access.resolve(user, name, Permission.SHARE)]
        return [_view(session, SessionGrant.model_validate(each)) for session in sessions for each in session.grants]

    async def shared_with(self, user: str) -> list[SharedSession]:
        """Return the sessions of other users that `user` may see, in the order of owners and names."""
        if not self._access.sharing:
            return []
        groups = await self._access.groups.current(user)
        found = []
        for session in await self._registry.shared_sessions():
            grants = grants_to(user, session, groups)
            if session.owner != user and grants:
                view = seen_by(user, self._observed.view(session))
                first = grants[0]
                found.append(SharedSession(session=view, role=first.role, until=first.until, via=first.grantee))
        return found

    async def leave(self, user: str, name: str) -> SharedSession:
        """Give up the user's own grant on `OWNER.NAME`, and return it.

        ConflictError if only a group of theirs has one: leaving it would end it for the others.
        """
        session = await self._access.resolve(user, name, Permission.SEE)
        if session.owner == user:
            raise InvalidInputError(f"{session.name} is your own session", hint=f"`berth unshare {session.name} USER`")
        grant = _find(session, user)
        if grant is None:
            raise ConflictError(
                f"{name} is shared with a group of yours, not with you alone",
                hint=f"{session.owner} can end it with `berth unshare NAME @GROUP`",
            )
        await self._remove(session, grant, EventEntry(user, "leave", _detail(grant)))
        view = seen_by(user, self._observed.view(session))
        return SharedSession(session=view, role=grant.role, until=grant.until, via=grant.grantee)

    async def _remove(self, session: Session, grant: SessionGrant, entry: EventEntry) -> None:
        session = await self._registry.update(session.id, _without(grant.grantee, entry))
        await self._manifests.try_write(session)


def _role(word: str) -> Role:
    try:
        return Role(word)
    except ValueError:
        known = ", ".join(Role)
        shown = word if word.isascii() and word.isprintable() else ascii(word)
        planned = "is planned, but this version of Berth has not got it" if word in FUTURE_ROLES else "does not exist"
        raise InvalidInputError(f"the role {shown} {planned}", hint=f"roles of this version: {known}") from None


def _find(session: Session, grantee: str) -> SessionGrant | None:
    return next(
        (grant for each in session.grants if (grant := SessionGrant.model_validate(each)).grantee == grantee), None
    )


def _add(user: str, grant: SessionGrant, most: int) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if current.state in {SessionState.DELETING, SessionState.DELETED}:
            raise ConflictError(f"{current.name} is being deleted", hint="`berth list` shows your sessions")
        others = [each for each in current.active_grants(clock.now()) if each.grantee != grant.grantee]
        if len(others) >= most:
            raise RefusedError(
                f"limit of grants reached ({len(others)} of {most})",
                hint=f"`berth shares {current.name}` lists them; a Unix group needs only one",
            )
        grants = [each.record() for each in (*others, grant)]
        return {"grants": grants}, EventEntry(user, "share", _detail(grant))

    return decide


def _without(grantee: str, entry: EventEntry) -> Transition:
    def decide(current: Session) -> RowChange | None:
        left = [each for each in current.grants if each["grantee"] != grantee]
        return None if len(left) == len(current.grants) else ({"grants": left}, entry)

    return decide


def _detail(grant: SessionGrant) -> str:
    until = "" if grant.until is None else f", until {format_time(grant.until)}"
    return f"with {grant.grantee} as {grant.role}{until}"


def _view(session: Session, grant: SessionGrant) -> GrantView:
    return GrantView(session=session.name, **grant.model_dump())
