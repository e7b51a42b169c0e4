"""Types of sharing: who may do what with a session of another user."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints

from broker.names import GRANTEE_PATTERN
from broker.schema.base import Strict, Timestamp
from broker.schema.sessions import SessionView

Grantee = Annotated[str, StringConstraints(pattern=GRANTEE_PATTERN)]
"""A user, or `@` and a Unix group."""


class Role(StrEnum):
    """The permissions that a grant gives; `broker.controller.sessions.access` lists them."""

    OPERATE = "operate"
    """See state, log, events and jobs; start, stop, extend, and take snapshots. Never the owner's shell or files."""


class ShareRequest(Strict):
    role: Annotated[str, StringConstraints(max_length=39)]
    """A value of Role. Other words are refused with a list of those that exist."""
    until: Timestamp | None = None
    """The end of the grant; None: until it is revoked."""


class GrantView(Strict):
    """A grant as the session's owner sees it."""

    session: str
    """The session's name."""
    grantee: str
    role: Role
    until: float | None = None
    """The time from which it gives nothing."""
    granted_at: float


class GrantList(Strict):
    grants: list[GrantView]


class SharedSession(Strict):
    """A session of another user, and the grant by which the caller sees it."""

    session: SessionView
    """Without what only its owner needs. Its name is `OWNER.NAME`."""
    role: Role
    until: float | None = None
    via: str
    """The receiver of the grant: the caller, or `@` and a group of theirs."""


class SharedList(Strict):
    sessions: list[SharedSession]
