"""Access control: one function decides for ssh, API, command line and web. What it does not allow is refused."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from broker.errors import NotFoundError

if TYPE_CHECKING:
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session


class Verb(StrEnum):
    """The permissions on a session."""

    SEE = "see"
    CONNECT = "connect"
    START = "start"
    STOP = "stop"
    DELETE = "delete"
    LOG = "log"
    SET = "set"
    """Change how it behaves."""
    SNAPSHOT = "snapshot"
    FORGET = "forget"
    ROLLBACK = "rollback"
    SWITCH = "switch"
    CLONE = "clone"
    INSPECT = "inspect"
    """Read the data: list snapshots, compare, measure, verify."""
    FLATTEN = "flatten"
    ROOT = "root"
    RESTORE = "restore"
    """Bring a deleted session back."""


def allowed(user: str, session: Session, verb: Verb) -> bool:
    """Whether `user` may do `verb` to `session`. The owner may do everything, nobody else anything."""
    del verb
    return user == session.owner


async def resolve(registry: AsyncRegistry, user: str, owner: str, name: str, verb: Verb) -> Session:
    """The session `name` of `owner`, if `user` may do `verb` to it.

    NotFoundError otherwise. For somebody else's session it says the same whether or not that session exists: names are
    nobody else's business.
    """
    session = await registry.find(owner, name)
    if session is not None and allowed(user, session, verb):
        return session
    if owner == user:
        raise NotFoundError(
            f"you have no session named {name}", hint="`berth list` shows yours, `berth start` makes one"
        )
    raise NotFoundError(
        f"{owner} has no session named {name} that you may use", hint="`berth list` shows the sessions that are yours"
    )


async def resolve_own(registry: AsyncRegistry, user: str, name: str, verb: Verb) -> Session:
    """The session `name` of `user`, if `user` may do `verb` to it; errors as `resolve`."""
    return await resolve(registry, user, user, name, verb)


def allowed_deleted(user: str, name: str, session: Session | None, verb: Verb) -> Session:
    """The same for a deleted session, which nobody finds by its name any more."""
    if session is not None and allowed(user, session, verb):
        return session
    raise NotFoundError(
        f"you have no deleted session named {name} that can be restored", hint="`berth list --deleted` shows yours"
    )
