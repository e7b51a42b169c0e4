"""Access control: one function decides for ssh, API, command line and web. What it does not allow is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.sessions.role_policy import RolePolicy
from broker.errors import InvalidInputError, NotFoundError, RefusedError
from broker.names import split_reference
from broker.schema.grants import Role
from broker.schema.permissions import Permission

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.controller.cluster.groups import UserGroups
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.grant import SessionGrant
    from broker.controller.registry.models import Session

_OPERATE = frozenset(
    {
        Permission.SEE,
        Permission.LOG,
        Permission.START,
        Permission.STOP,
        Permission.EXTEND,
        Permission.SNAPSHOT,
    }
)
_PAIR = frozenset({Permission.SEE, Permission.WATCH, Permission.PAIR})
ROLE_PERMISSIONS = {
    Role.OPERATE: _OPERATE,
    Role.WATCH: _PAIR - {Permission.PAIR},
    Role.PAIR: _PAIR,
    Role.USE: _OPERATE | _PAIR | {Permission.USE},
    Role.PORT: frozenset({Permission.VISIT}),
    Role.SNAPSHOT: frozenset({Permission.CLONE_SHARED}),
}
"""The permissions of each role: of PORT on the service, and of SNAPSHOT on the snapshot of the grant. Those that are in
no role are the owner's alone."""

ALL_ROLES = frozenset(Role)
ENTRY_ROLES = {Role.WATCH: Permission.WATCH, Role.PAIR: Permission.PAIR, Role.USE: Permission.USE}
"""The roles with which guests log in, weakest first, and the permission that only they and stronger ones give."""

ROLE_TEXTS = {
    Role.OPERATE: "show, start, stop, extend and snapshot it, and read log, events, jobs",
    Role.WATCH: "show it, and see the terminals that its owner shows, by `berth ssh OWNER.NAME`",
    Role.PAIR: "show it, see the terminals that its owner shows, and type there when the owner lets them: "
    "`berth ssh OWNER.NAME`",
    Role.USE: "work in it as its owner, by `berth ssh OWNER.NAME`, and start, stop, extend and snapshot it",
    Role.PORT: "open the service that was shared: `berth list --shared`",
    Role.SNAPSHOT: "clone the snapshots that were shared: `berth list --shared`",
}
"""The permissions of a guest with each role."""

OPERATOR_PERMISSIONS = frozenset({Permission.SEE, Permission.STOP, Permission.EXTEND, Permission.MESSAGE})
"""The permissions of the site's operators on all sessions. SEE is the view of `operator_view` for them."""


def is_allowed(
    user: str,
    session: Session,
    permission: Permission,
    groups: frozenset[str] | None = None,
    *,
    service: str | None = None,
    roles: frozenset[Role] = ALL_ROLES,
    as_operator: bool = False,
) -> bool:
    """Whether `user` has `permission` on `session`, or on its `service`. The owner has all of them.

    Other users have those of the grants to them and to their `groups`, as they are now, whose role is one of the site's
    `roles`. Without `groups`, sharing does not count. `as_operator`: `user` is an operator who acts as such, and has
    those permissions alone, also on their own sessions.
    """
    if as_operator:
        return permission in OPERATOR_PERMISSIONS
    if user == session.owner:
        return True
    if groups is None:
        return False
    return any(grant_allows(grant, permission, service) for grant in grants_to(user, session, groups, roles))


def grant_allows(grant: SessionGrant, permission: Permission, service: str | None = None) -> bool:
    """Whether a grant that lasts gives `permission` on its session, or on the session's `service`."""
    return permission in ROLE_PERMISSIONS[grant.role] and grant.service in {None, service}


def grants_to(
    user: str, session: Session, groups: frozenset[str], roles: frozenset[Role] = ALL_ROLES
) -> list[SessionGrant]:
    """Return the active grants on the session to `user` and to these groups, of these roles.

    Those to `user` come first.
    """
    grantees = {user, *(f"@{group}" for group in groups)}
    active = session.active_grants(clock.now())
    grants = [grant for grant in active if grant.grantee in grantees and grant.role in roles]
    return sorted(grants, key=lambda grant: grant.grantee.startswith("@"))


@dataclass(frozen=True, slots=True)
class SessionAccess:
    """The sessions that a user may act on. Groups are looked up at each use."""

    registry: AsyncRegistry
    groups: UserGroups
    sharing: bool
    """Whether grants count: in site mode, unless the site has switched sharing off."""
    operators: str | None = None
    """The Unix group of the site's operators, as `@GROUP`; None: there are none."""
    is_personal: bool = False
    """Whether the controller serves one user alone."""
    roles: frozenset[Role] = ALL_ROLES
    """The roles of the site. A grant of another one gives nothing."""
    policies: Mapping[Role, RolePolicy] = field(default_factory=dict)
    """The users who may grant and receive a role, for each role that is not for everybody."""

    async def resolve(self, user: str, reference: str, permission: Permission, service: str | None = None) -> Session:
        """Return the session `NAME` or `OWNER.NAME` if `user` has `permission` on it, or on its `service`.

        NotFoundError otherwise. For another user's session the message is the same whether or not that session exists:
        session names are private. RefusedError for a guest whose role does not have this permission.
        """
        owner, name = split_reference(reference, user)
        session = await self.registry.find(owner, name)
        if session is not None and is_allowed(user, session, permission):
            return session
        if owner == user:
            raise NotFoundError(
                f"you have no session named {name}",
                hint="`berth list` shows yours, `berth start NAME --profile PROFILE` makes one",
            )
        session, groups, roles = await self._as_guest(user, reference, permission, service)
        if not is_allowed(user, session, permission, groups, service=service, roles=roles):
            raise _refusal(owner, name, grants_to(user, session, groups, roles))
        return session

    def check_sharing(self) -> None:
        """Raise RefusedError if grants do not count here."""
        if not self.sharing:
            raise RefusedError(
                "this site does not share sessions", hint="sharing needs site mode and `sharing.enabled`"
            )

    async def resolve_guest(self, user: str, reference: str) -> Session:
        """Return the session `OWNER.NAME` if any grant on it counts for `user`; NotFoundError otherwise."""
        return (await self._as_guest(user, reference))[0]

    async def resolve_snapshot(self, user: str, reference: str, number: str | None) -> tuple[Session, int]:
        """Return the session `OWNER.NAME` of another user, and the number of its snapshot that `user` may clone.

        NotFoundError and RefusedError as `resolve`. InvalidInputError for a snapshot that is not shared with `user`:
        the message is the same whether or not it exists.
        """
        owner, name = split_reference(reference, user)
        session, groups, roles = await self._as_guest(user, reference)
        grants = grants_to(user, session, groups, roles)
        if not is_allowed(user, session, Permission.CLONE_SHARED, groups, roles=roles):
            raise _refusal(owner, name, grants)
        shared = sorted({grant.snapshot for grant in grants if grant.snapshot is not None})
        if number is None or number not in {str(each) for each in shared}:
            raise InvalidInputError(
                f"name a snapshot of {reference} that is shared with you: {', '.join(map(str, shared))}",
                hint=f"`berth clone {reference} NEW --at N`; `berth list --shared` lists them",
            )
        return session, int(number)

    async def _as_guest(
        self, user: str, reference: str, permission: Permission | None = None, service: str | None = None
    ) -> tuple[Session, frozenset[str], frozenset[Role]]:
        """Return another user's session on which any grant counts for `user`, the groups of `user`, and the roles that
        the owner may give them.

        Groups are left out if the grants to `user` alone give `permission`. NotFoundError without such a grant.
        """
        owner, name = split_reference(reference, user)
        asked = await self.registry.find(owner, name)
        groups, roles = await self._guest_groups(user, owner, asked, permission, service)
        session = await self.registry.find(owner, name)  # it may have changed meanwhile
        if session is None or groups is None or not grants_to(user, session, groups, roles):
            raise _no_shared_session(owner, name)
        return session, groups, roles

    async def grant_of(
        self, user: str, session: Session, permission: Permission, service: str | None = None
    ) -> SessionGrant | None:
        """Return the grant that gives a guest `permission` on the session or service now, the one that ends last.

        None for a guest whose account is gone.
        """
        if not self.sharing:
            return None
        own = grants_to(user, session, frozenset(), self.roles)
        # A group's grant may last longer.
        has_end = all(grant.until is not None for grant in own if grant_allows(grant, permission, service))
        groups, roles = await self._groups_and_roles(user, session.owner, needs_groups=has_end)
        grants = grants_to(user, session, groups, roles)
        giving = [grant for grant in grants if grant_allows(grant, permission, service)]
        return max(giving, key=_end) if giving and not await self.groups.is_gone(user) else None

    async def entry_grant(self, user: str, session: Session) -> SessionGrant | None:
        """Return the grant by which a guest may log in now: of the strongest role, the one that ends last.

        None for a guest whose account is gone.
        """
        if not self.sharing:
            return None
        has_groups = any(grant.grantee.startswith("@") for grant in session.active_grants(clock.now()))
        groups, roles = await self._groups_and_roles(user, session.owner, needs_groups=has_groups)
        giving = [each for each in grants_to(user, session, groups, roles) if each.role in ENTRY_ROLES]
        if not giving or await self.groups.is_gone(user):
            return None
        strength = list(ENTRY_ROLES)
        return max(giving, key=lambda grant: (strength.index(grant.role), _end(grant)))

    async def roles_between(self, owner: str, guest_groups: frozenset[str]) -> frozenset[Role]:
        """Return the roles that the site lets `owner` give to a user of these groups, as the groups are now."""
        if not self.policies:
            return self.roles
        owner_groups = await self.groups.look_up(owner)
        everybody = RolePolicy()
        return frozenset(
            role for role in self.roles if self.policies.get(role, everybody).allows(owner_groups, guest_groups)
        )

    async def check_policy(self, owner: str, role: Role, grantee: str) -> None:
        """RefusedError unless the site lets `owner` give the role to this user. A group's members are asked for at each
        use.
        """
        policy = self.policies.get(role, RolePolicy())
        policy.check_owner(role, await self.groups.look_up(owner))
        if not grantee.startswith("@"):
            policy.check_guest(role, grantee, await self.groups.look_up(grantee))

    async def _groups_and_roles(
        self, user: str, owner: str, *, needs_groups: bool
    ) -> tuple[frozenset[str], frozenset[Role]]:
        """Return the groups of a guest, and the roles that `owner` may give to them.

        The name service is asked only if groups are needed, or if roles depend on them.
        """
        if not self.policies:
            return (await self.groups.look_up(user) if needs_groups else frozenset()), self.roles
        groups = await self.groups.look_up(user)
        return groups, await self.roles_between(owner, groups)

    async def permission_end(
        self, user: str, session: Session, permission: Permission, service: str | None = None
    ) -> float:
        """Return the time until which `user` has `permission` on the session or service, as the grants are now.

        Infinity for the owner and for a grant without an end; 0 without the permission.
        """
        if user == session.owner:
            return math.inf
        grant = await self.grant_of(user, session, permission, service)
        if grant is None:
            return 0.0
        return math.inf if grant.until is None else grant.until

    async def check_operator(self, user: str) -> None:
        """Return if `user` is one of the site's operators now.

        RefusedError otherwise, before any look at a session: it tells nothing about those of others. Without an answer
        of the name service, there is no operator.
        """
        if self.is_personal:
            raise RefusedError(
                "personal mode has no operators",
                hint="`berth list` and `berth stop NAME` are for your sessions; operators need site mode",
            )
        groups = await self.groups.look_up(user) if self.operators is not None else frozenset()
        if self.operators not in {f"@{group}" for group in groups}:
            raise RefusedError(
                "only the site's operators may do this",
                hint="they are the members of the Unix group in `operators.group` of the site's configuration",
            )

    async def resolve_as_operator(self, user: str, reference: str, permission: Permission) -> Session:
        """Return the session `OWNER.NAME` if `user` is an operator, whom `permission` is given.

        RefusedError otherwise; NotFoundError for an operator if it does not exist.
        """
        await self.check_operator(user)
        owner, name = split_reference(reference, user)
        session = await self.registry.find(owner, name)
        if session is None:
            raise NotFoundError(
                f"{owner} has no session named {name}", hint=f"`berth admin list --user {owner}` shows those that exist"
            )
        if not is_allowed(user, session, permission, as_operator=True):
            raise RefusedError(
                f"an operator may not do this with {owner}.{name}",
                hint="operators see, stop and extend sessions, and write to their terminals",
            )
        return session

    async def sessions_for_operator(
        self,
        user: str,
        owner: str | None = None,
        *,
        node: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> list[Session]:
        """Return sessions as `SessionRows.all_sessions` does. RefusedError as check_operator."""
        await self.check_operator(user)
        sessions = await self.registry.all_sessions(owner, node=node, after=after, limit=limit)
        return [each for each in sessions if is_allowed(user, each, Permission.SEE, as_operator=True)]

    async def _guest_groups(
        self, user: str, owner: str, session: Session | None, permission: Permission | None, service: str | None
    ) -> tuple[frozenset[str] | None, frozenset[Role]]:
        """Return the groups that count for a guest, and the roles; None for the groups if sharing is off.

        The name service is asked unless the grants to the user alone give `permission`, also about a session that does
        not exist: so the time of the answer tells nothing.
        """
        if not self.sharing:
            return None, frozenset()
        is_given = False
        if session is not None and permission is not None:
            own = grants_to(user, session, frozenset(), self.roles)
            is_given = any(grant_allows(grant, permission, service) for grant in own)
        return await self._groups_and_roles(user, owner, needs_groups=not is_given)


def _end(grant: SessionGrant) -> float:
    return math.inf if grant.until is None else grant.until


def _refusal(owner: str, name: str, grants: list[SessionGrant]) -> RefusedError:
    """Return the error for a guest whose grants do not give the permission."""
    held = [f"{grant.role} of {grant.service}" if grant.service else str(grant.role) for grant in grants]
    return RefusedError(
        f"only {owner} may do this with {owner}.{name}; your role there is {' and '.join(sorted(set(held)))}",
        hint="a guest with this role can " + "; ".join(dict.fromkeys(ROLE_TEXTS[grant.role] for grant in grants)),
    )


def _no_shared_session(owner: str, name: str) -> NotFoundError:
    return NotFoundError(
        f"{owner} has no session named {name} that you may use",
        hint="`berth list` shows your sessions, `berth list --shared` those that are shared with you",
    )


def require_deleted(user: str, name: str, session: Session | None, permission: Permission) -> Session:
    """Return the deleted session `session` if `user` has `permission` on it; NotFoundError otherwise."""
    if session is not None and is_allowed(user, session, permission):
        return session
    raise NotFoundError(
        f"you have no deleted session named {name} that can be restored", hint="`berth list --deleted` shows yours"
    )
