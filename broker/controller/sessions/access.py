"""Access control: one function decides for ssh, API, command line and web. What it does not allow is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.registry.grant import SessionGrant
from broker.errors import NotFoundError, RefusedError
from broker.names import split_reference
from broker.schema.grants import Role
from broker.schema.permissions import Permission

if TYPE_CHECKING:
    from broker.controller.cluster.groups import UserGroups
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session

ROLE_PERMISSIONS = {
    Role.OPERATE: frozenset(
        {
            Permission.SEE,
            Permission.LOG,
            Permission.START,
            Permission.STOP,
            Permission.EXTEND,
            Permission.SNAPSHOT,
        }
    ),
}
"""The permissions of each role. Those that are in no role are the owner's alone."""

OPERATOR_PERMISSIONS = frozenset({Permission.SEE, Permission.STOP, Permission.EXTEND, Permission.MESSAGE})
"""The permissions of the site's operators on all sessions. SEE is the view of `operator_view` for them."""


def allowed(
    user: str,
    session: Session,
    permission: Permission,
    groups: frozenset[str] | None = None,
    *,
    as_operator: bool = False,
) -> bool:
    """Whether `user` has `permission` on `session`. The owner has all of them.

    Other users have those of the grants to them and to their `groups`, as they are now. Without `groups`, sharing does
    not count. `as_operator`: `user` is an operator who acts as such, and has those permissions alone, also on their own
    sessions.
    """
    if as_operator:
        return permission in OPERATOR_PERMISSIONS
    if user == session.owner:
        return True
    if groups is None:
        return False
    return any(permission in ROLE_PERMISSIONS[grant.role] for grant in grants_to(user, session, groups))


def grants_to(user: str, session: Session, groups: frozenset[str]) -> list[SessionGrant]:
    """Return the grants on the session to `user` and to these groups that have not expired, those to `user` first."""
    receivers = {user, *(f"@{group}" for group in groups)}
    to_them = [SessionGrant.model_validate(each) for each in session.grants if each["grantee"] in receivers]
    grants = [grant for grant in to_them if grant.is_active(clock.now())]
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

    async def resolve(self, user: str, reference: str, permission: Permission) -> Session:
        """Return the session `NAME` or `OWNER.NAME` if `user` has `permission` on it.

        NotFoundError otherwise. For another user's session the message is the same whether or not that session exists:
        session names are private. RefusedError for a guest whose role does not have this permission.
        """
        owner, name = split_reference(reference, user)
        session = await self.registry.find(owner, name)
        if session is not None and allowed(user, session, permission):
            return session
        if owner == user:
            raise NotFoundError(
                f"you have no session named {name}",
                hint="`berth list` shows yours, `berth start NAME --profile PROFILE` makes one",
            )
        groups = await self.guest_groups(user, session)
        session = await self.registry.find(owner, name)  # it may have changed meanwhile
        if groups is not None and session is not None and allowed(user, session, Permission.SEE, groups):
            if allowed(user, session, permission, groups):
                return session
            roles = " and ".join(sorted({grant.role for grant in grants_to(user, session, groups)}))
            raise RefusedError(
                f"only {owner} may do this with {owner}.{name}; your role there is {roles}",
                hint="a guest with this role can show, start, stop, extend and snapshot it, and read log, events, jobs",
            )
        raise _no_shared_session(owner, name)

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
        groups = await self.groups.current(user) if self.operators is not None else frozenset()
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
        if not allowed(user, session, permission, as_operator=True):
            raise RefusedError(
                f"an operator may not do this with {owner}.{name}",
                hint="operators see, stop and extend sessions, and write to their terminals",
            )
        return session

    async def seen_by_operator(self, user: str, owner: str | None = None) -> list[Session]:
        """Return all sessions, or those of `owner`, ordered by owner and name. RefusedError as check_operator."""
        await self.check_operator(user)
        sessions = await self.registry.all_sessions(owner)
        return [each for each in sessions if allowed(user, each, Permission.SEE, as_operator=True)]

    async def guest_groups(self, user: str, session: Session | None) -> frozenset[str] | None:
        """Return the groups that count for a guest; None if sharing is off.

        The name service is asked unless a grant to the user alone is enough, also about a session that does not exist:
        so the time of the answer tells nothing.
        """
        if not self.sharing:
            return None
        if session is not None and grants_to(user, session, frozenset()):
            return frozenset()
        return await self.groups.current(user)


def _no_shared_session(owner: str, name: str) -> NotFoundError:
    return NotFoundError(
        f"{owner} has no session named {name} that you may use",
        hint="`berth list` shows your sessions, `berth list --shared` those that are shared with you",
    )


def allowed_deleted(user: str, name: str, session: Session | None, permission: Permission) -> Session:
    """Return the deleted session `session` if `user` has `permission` on it; NotFoundError otherwise."""
    if session is not None and allowed(user, session, permission):
        return session
    raise NotFoundError(
        f"you have no deleted session named {name} that can be restored", hint="`berth list --deleted` shows yours"
    )
