"""Grants: who may act on a session beside its owner. `access` decides what a grant allows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.registry.grant import SessionGrant
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.access import grant_allows, grants_to
from broker.controller.sessions.guest_view import view_for_user
from broker.errors import BerthError, ConflictError, InvalidInputError, NotFoundError, RefusedError
from broker.format import format_time
from broker.names import split_reference
from broker.schema.grants import EndedGrants, GrantView, Role, SharedList, SharedService, SharedSession, SharedSnapshot
from broker.schema.permissions import Permission
from broker.schema.sessions import SessionState
from broker.text.sharing import describe_shared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.config.sharing_settings import SharingSettings
    from broker.controller.reconcile.manifests import ManifestWriter
    from broker.controller.reconcile.observed_slurm import ObservedSlurm
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.grant import GrantKey
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.shared_services import SharedServices
    from broker.controller.sessions.snapshot_lookup import SnapshotLookup
    from broker.origins import Origins
    from broker.schema.grants import SharedContent, ShareRequest
    from broker.schema.sessions import SessionView


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
        lookup: SnapshotLookup,
        services: SharedServices,
        origins: Origins | None,
        apply: Callable[[str], Awaitable[bool]],
    ) -> None:
        """`origins`: those of web access; None without it. `apply` closes the connections of guests of the session with
        this id that its grants do not allow now, and returns whether they are closed.
        """
        self._settings = settings
        self._access = access
        self._registry = registry
        self._manifests = manifests
        self._observed = observed
        self._lookup = lookup
        self._services = services
        self._origins = origins
        self._apply = apply

    async def share(self, user: str, name: str, grantee: str, request: ShareRequest) -> GrantView:
        """Grant a role to a user or group, in place of an earlier grant to the same one, or of the same service or
        snapshot.

        RefusedError if the site has no sharing or not this role, or not for these users, for a service that is a shell,
        and if the session has as many grants as the site allows; InvalidInputError for an unknown role, user or group,
        for a time that has passed, and for a service or snapshot without the role for it; NotFoundError for one that
        does not exist.
        """
        session = await self._access.resolve(user, name, Permission.SHARE)
        self._access.check_sharing()
        role = self._role(request, name)
        if request.until is not None and request.until <= clock.now():
            raise InvalidInputError(f"{format_time(request.until)} is not in the future")
        await self._check_grantee(session, grantee)
        await self._access.check_policy(session.owner, role, grantee)
        if request.service is not None:
            await self._services.check_share(session, request.service)
        snapshot = None if request.snapshot is None else (await self._lookup.find(session, request.snapshot)).number
        grant = SessionGrant(
            grantee=grantee,
            role=role,
            until=request.until,
            granted_at=clock.now(),
            snapshot=snapshot,
            service=request.service,
        )
        session = await self._registry.update(session.id, _add(user, grant, self._settings.max_grants))
        if not await self._install(session):  # the earlier grant, which this one replaces, may have allowed more
            raise BerthError(
                f"{session.name} is shared {_detail(grant)}, but earlier connections may last for up to a minute",
                hint="Berth could not write the session's files, or reach a gateway or berth-web; "
                f"`berth who {session.name}` shows who is connected",
            )
        return _view(session, grant)

    async def _check_grantee(self, session: Session, grantee: str) -> None:
        """InvalidInputError unless the session can be shared with `grantee`."""
        if grantee == session.owner:
            raise InvalidInputError("a session cannot be shared with its owner", hint="name another user, or a @GROUP")
        if not await self._access.groups.has_account(grantee):
            kind = "group" if grantee.startswith("@") else "user"
            raise InvalidInputError(
                f"this machine knows no {kind} named {grantee.removeprefix('@')}",
                hint="name a user, or a Unix group as @GROUP",
            )

    async def content(self, user: str, name: str, reference: str) -> SharedContent:
        """Return what others would get of a snapshot, and what is left out. NotFoundError if there is none."""
        session = await self._access.resolve(user, name, Permission.SHARE)
        self._access.check_sharing()
        return await self._lookup.shared_content(session, reference)

    async def unshare(
        self, user: str, name: str, grantee: str, *, snapshot: int | None = None, service: str | None = None
    ) -> EndedGrants:
        """Revoke all grants to a user or group, or the one of a snapshot or service, and return them.

        They give nothing from then on, and the connections by them are closed. NotFoundError if there is none.
        """
        session = await self._access.resolve(user, name, Permission.SHARE)
        found = _find(session, grantee, snapshot, service)
        if not found:
            raise NotFoundError(
                f"{describe_shared(session.name, snapshot, service)} is not shared with {grantee}",
                hint=f"`berth shares {session.name}` lists its grants",
            )
        closed = await self._remove(session, found, EventEntry(user, "unshare", _details(found)))
        return EndedGrants(grants=[_view(session, grant) for grant in found], closed=closed)

    async def forget_snapshot(self, user: str, session_id: str, number: int) -> None:
        """Remove the grants of a snapshot that was deleted, and record that."""
        session = await self._registry.require(session_id)
        grants = [grant for grant in _stored_grants(session) if grant.snapshot == number]
        if grants:
            await self._remove(session, grants, EventEntry(user, "unshare", _details(grants)))

    async def all(self, user: str, name: str | None = None) -> list[GrantView]:
        """Return the grants on one or all of the user's sessions, also expired ones."""
        if name is None:
            sessions = await self._registry.sessions_of(user)
        else:
            sessions = [await self._access.resolve(user, name, Permission.SHARE)]
        return [_view(session, grant) for session in sessions for grant in session.valid_grants]

    async def shared_list(self, user: str) -> SharedList:
        """Return what others share with `user`, in the order of owners and names: each role, snapshot and service once.

        Of several grants of the same, the one to `user` alone is shown.
        """
        shared = SharedList(sessions=[])
        for session, grants in await self._find_shared(user):
            once = {(grant.role, grant.snapshot, grant.service): grant for grant in reversed(grants)}
            for grant in sorted(once.values(), key=lambda grant: (grant.role, grant.snapshot or 0)):
                if grant_allows(grant, Permission.SEE):
                    shared.sessions.append(_shared_session(user, self._observed.view(session), grant))
                elif grant.snapshot is not None:
                    shared.snapshots.append(_shared_snapshot(session, grant, grant.snapshot))
                elif grant.service is not None and self._origins is not None:
                    shared.services.append(_shared_service(session, grant, grant.service, self._origins))
        return shared

    async def _find_shared(self, user: str) -> list[tuple[Session, list[SessionGrant]]]:
        """Return the sessions of others with grants that count for `user`, and these."""
        if not self._access.sharing:
            return []
        groups = await self._access.groups.look_up(user)
        sessions = [session for session in await self._registry.shared_sessions() if session.owner != user]
        owners = sorted({session.owner for session in sessions})
        found_roles = await asyncio.gather(*(self._access.roles_between(owner, groups) for owner in owners))
        roles = dict(zip(owners, found_roles, strict=True))
        found = [(session, grants_to(user, session, groups, roles[session.owner])) for session in sessions]
        return [(session, grants) for session, grants in found if grants]

    async def leave(
        self, user: str, name: str, *, snapshot: int | None = None, service: str | None = None
    ) -> EndedGrants:
        """Give up the user's own grants on `OWNER.NAME`, or the one of a snapshot or service, and return them.

        ConflictError if only a group of theirs has one: leaving it would end it for the others.
        """
        if split_reference(name, user)[0] == user:
            session = await self._access.resolve(user, name, Permission.SEE)
            raise InvalidInputError(f"{session.name} is your own session", hint=f"`berth unshare {session.name} USER`")
        session = await self._access.resolve_guest(user, name)
        found = _find(session, user, snapshot, service)
        if not found:
            raise ConflictError(
                f"{describe_shared(name, snapshot, service)} is not shared with you alone",
                hint=f"{session.owner} can end what is shared with a group of yours: `berth unshare NAME @GROUP`",
            )
        closed = await self._remove(session, found, EventEntry(user, "leave", _details(found)))
        left = [_view(session, grant).model_copy(update={"session": name}) for grant in found]
        return EndedGrants(grants=left, closed=closed)

    def _role(self, request: ShareRequest, name: str) -> Role:
        """Return the requested role. InvalidInputError if it does not fit what is shared; RefusedError."""
        role = _parse_role(request.role, self._access.roles)
        if (role is Role.SNAPSHOT) != (request.snapshot is not None):
            raise InvalidInputError(
                "the role snapshot, and no other, is for one snapshot",
                hint=f"`berth share {name} USER --snapshot N` shares one",
            )
        if (role is Role.PORT) != (request.service is not None):
            raise InvalidInputError(
                "the role port, and no other, is for one service",
                hint=f"`berth share {name} USER --service SERVICE` shares one",
            )
        if role is Role.PORT and self._origins is None:
            raise RefusedError(
                "this site has no web access, through which others would open a service",
                hint="the site sets it up with `web.url`; the other roles work without it",
            )
        return role

    async def _remove(self, session: Session, grants: list[SessionGrant], entry: EventEntry) -> bool:
        """Remove grants, and return whether the connections by them are closed."""
        session = await self._registry.update(session.id, _without({grant.key for grant in grants}, entry))
        return await self._install(session)

    async def _install(self, session: Session) -> bool:
        """Write the session's grants to its manifest, and return whether the connections that end are closed."""
        _, closed = await asyncio.gather(self._manifests.try_write(session), self._apply(session.id))
        return closed


def _parse_role(word: str, roles: frozenset[Role]) -> Role:
    """Return the role of that name. InvalidInputError if this version has none; RefusedError if the site has not."""
    known = ", ".join(sorted(roles))
    shown = word if word.isascii() and word.isprintable() else ascii(word)
    if word in roles:
        return Role(word)
    if word in set(Role):
        raise RefusedError(f"this site does not have the role {shown}", hint=f"roles of this site: {known}")
    raise InvalidInputError(f"the role {shown} does not exist", hint=f"roles of this site: {known}")


def _stored_grants(session: Session) -> list[SessionGrant]:
    return [SessionGrant.model_validate(each) for each in session.grants]


def _find(session: Session, grantee: str, snapshot: int | None, service: str | None) -> list[SessionGrant]:
    """Return the grants to `grantee`, or the one of a snapshot or service."""
    to_them = [grant for grant in session.valid_grants if grant.grantee == grantee]
    if snapshot is None and service is None:
        return to_them
    return [grant for grant in to_them if (grant.snapshot, grant.service) == (snapshot, service)]


def _add(user: str, grant: SessionGrant, most: int) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if current.state in {SessionState.DELETING, SessionState.DELETED}:
            raise ConflictError(f"{current.name} is being deleted", hint="`berth list` shows your sessions")
        if current.has_deleted(grant.snapshot):
            raise NotFoundError(
                f"snapshot {grant.snapshot} of {current.name} was deleted meanwhile",
                hint=f"`berth snapshots {current.name}` lists those that exist",
            )
        others = [each for each in current.active_grants(clock.now()) if each.key != grant.key]
        if len(others) >= most:
            raise RefusedError(
                f"limit of grants reached ({len(others)} of {most})",
                hint=f"`berth shares {current.name}` lists them; a Unix group needs only one",
            )
        grants = [each.record() for each in (*others, grant)]
        return {"grants": grants}, EventEntry(user, "share", _detail(grant))

    return decide


def _without(keys: set[GrantKey], entry: EventEntry) -> Transition:
    def decide(current: Session) -> RowChange | None:
        left = [each.record() for each in _stored_grants(current) if each.key not in keys]
        return None if len(left) == len(current.grants) else ({"grants": left}, entry)

    return decide


def _detail(grant: SessionGrant) -> str:
    until = "" if grant.until is None else f", until {format_time(grant.until)}"
    if grant.snapshot is not None:
        return f"with {grant.grantee} snapshot {grant.snapshot}{until}"
    service = "" if grant.service is None else f" of {grant.service}"
    return f"with {grant.grantee} as {grant.role}{service}{until}"


def _details(grants: list[SessionGrant]) -> str:
    return "; ".join(map(_detail, grants))


def _shared_session(user: str, view: SessionView, grant: SessionGrant) -> SharedSession:
    return SharedSession(session=view_for_user(user, view), role=grant.role, until=grant.until, via=grant.grantee)


def _shared_snapshot(session: Session, grant: SessionGrant, number: int) -> SharedSnapshot:
    return SharedSnapshot(session=session.full_name, snapshot=number, until=grant.until, via=grant.grantee)


def _shared_service(session: Session, grant: SessionGrant, service: str, origins: Origins) -> SharedService:
    return SharedService(
        session=session.full_name,
        service=service,
        host=origins.service_host(service, session.name, session.id, session.owner),
        is_open=session.state is SessionState.READY,
        until=grant.until,
        via=grant.grantee,
    )


def _view(session: Session, grant: SessionGrant) -> GrantView:
    return GrantView(session=session.name, **grant.model_dump())
