"""Types of sharing: who may do what with a session of another user."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from broker.names import GRANTEE_PATTERN
from broker.schema.base import Strict, Timestamp
from broker.schema.services import ServiceName
from broker.schema.sessions import SessionView
from broker.schema.volumes import SnapshotReference

Grantee = Annotated[str, StringConstraints(pattern=GRANTEE_PATTERN)]
"""A user, or `@` and a Unix group."""


class Role(StrEnum):
    """The permissions that a grant gives; `broker.controller.sessions.access` lists them."""

    OPERATE = "operate"
    """See state, log, events and jobs; start, stop, extend, and take snapshots. Never the owner's shell or files."""
    WATCH = "watch"
    """See state, and the terminals that the owner shows. Nothing that they type reaches the session."""
    PAIR = "pair"
    """See state, and the terminals that the owner shows, and type there while the owner looks and lets them."""
    USE = "use"
    """Work in a shell of the session as its owner, and what OPERATE gives."""
    PORT = "port"
    """Open one service of the session, which is no shell, in a browser. Nothing else of the session."""
    SNAPSHOT = "snapshot"
    """Clone one snapshot, which the grant names, as a session of their own. Nothing else of the session."""


class ShareRequest(Strict):
    role: Annotated[str, StringConstraints(max_length=39)]
    """A value of Role. Other words are refused with a list of those that exist."""
    until: Timestamp | None = None
    """The end of the grant; None: until it is revoked."""
    snapshot: SnapshotReference | None = None
    """The snapshot that is shared: required with the role `snapshot`, and for no other."""
    service: ServiceName | None = None
    """The service to open: required with the role `port`, and for no other."""


class GrantView(Strict):
    """A grant as the session's owner sees it."""

    session: str
    """The session's name."""
    grantee: str
    role: Role
    until: float | None = None
    """The time from which it gives nothing."""
    granted_at: float
    snapshot: int | None = None
    """The number of the snapshot, with the role `snapshot`."""
    service: str | None = None
    """The service that the role `port` opens."""


class GrantList(Strict):
    grants: list[GrantView]


class EndedGrants(Strict):
    """Grants that give nothing any more."""

    grants: list[GrantView]
    closed: bool = True
    """Whether all connections by them are closed. Otherwise, leases end those of ssh within a minute, and berth-web
    closes those of browsers when it is back."""


class SharedSession(Strict):
    """A session of another user, and the grant by which the caller sees it."""

    session: SessionView
    """Without what only its owner needs. Its name is `OWNER.NAME`."""
    role: Role
    until: float | None = None
    via: str
    """The grantee: the caller, or `@` and a group of theirs."""


class SharedSnapshot(Strict):
    """A snapshot of another user's session that the caller may clone. Nothing else of that session is shown."""

    session: str
    """`OWNER.NAME`."""
    snapshot: int
    until: float | None = None
    via: str
    """The grantee: the caller, or `@` and a group of theirs."""


class SharedService(Strict):
    """A service of another user's session that the caller may open, and nothing else of that session."""

    session: str
    """`OWNER.NAME`."""
    service: str
    host: str
    """The host name of its origin."""
    is_open: bool
    """Whether the session is ready."""
    until: float | None = None
    via: str
    """The grantee: the caller, or `@` and a group of theirs."""


class SharedServiceList(Strict):
    services: list[SharedService]


class SharedList(Strict):
    sessions: list[SharedSession]
    snapshots: list[SharedSnapshot] = Field(default_factory=list)
    services: list[SharedService] = Field(default_factory=list)


class SharedAmount(Strict):
    """Files of one volume that another user gets."""

    files: Annotated[int, Field(ge=0, lt=2**53)]
    bytes: Annotated[int, Field(ge=0, lt=2**63)]


class LeftOutEntry(Strict):
    volume: Literal["home", "system"]
    path: Annotated[str, StringConstraints(max_length=2**18)]
    """As the session sees it, relative; with `/` at its end, a folder with everything in it."""
    reason: Annotated[str, StringConstraints(max_length=200)]


class SharedContent(Strict):
    """The files of a snapshot that another user gets, and those that are left out."""

    included: dict[Literal["home", "system"], SharedAmount]
    left_out: Annotated[list[LeftOutEntry], Field(max_length=1000)]
    reasons: Annotated[dict[Annotated[str, StringConstraints(max_length=200)], int], Field(max_length=1000)]
    """How many entries are left out, by reason."""
    truncated: bool = False
    """Whether more entries are left out than are listed."""
