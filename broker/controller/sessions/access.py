"""Access control: one function decides for ssh, API, command line and web. What it does not allow is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import NotFoundError

if TYPE_CHECKING:
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.schema.permissions import Permission


def allowed(user: str, session: Session, permission: Permission) -> bool:
    """Whether `user` has `permission` on `session`. The owner has all of them; other users have none."""
    del permission
    return user == session.owner


async def resolve(registry: AsyncRegistry, user: str, owner: str, name: str, permission: Permission) -> Session:
    """Return the session `name` of `owner` if `user` has `permission` on it.

    NotFoundError otherwise. For another user's session the message is the same whether or not that session exists:
    session names are private.
    """
    session = await registry.find(owner, name)
    if session is not None and allowed(user, session, permission):
        return session
    if owner == user:
        raise NotFoundError(
            f"you have no session named {name}",
            hint="`berth list` shows yours, `berth start NAME --profile PROFILE` makes one",
        )
    raise NotFoundError(
        f"{owner} has no session named {name} that you may use", hint="`berth list` shows the sessions that are yours"
    )


async def resolve_own(registry: AsyncRegistry, user: str, name: str, permission: Permission) -> Session:
    """Return the session `name` of `user` if `user` has `permission` on it; errors as `resolve`."""
    return await resolve(registry, user, user, name, permission)


def allowed_deleted(user: str, name: str, session: Session | None, permission: Permission) -> Session:
    """Return the deleted session `session` if `user` has `permission` on it; NotFoundError otherwise."""
    if session is not None and allowed(user, session, permission):
        return session
    raise NotFoundError(
        f"you have no deleted session named {name} that can be restored", hint="`berth list --deleted` shows yours"
    )
