"""Types of connections: a session's endpoint, and records of connected users."""

from __future__ import annotations

from typing import Annotated

from pydantic import FailFast, Field, StringConstraints

from broker.names import (
    IDENTIFIER,
)
from broker.schema.base import MAX_ITEMS, KnownSession, Strict, Timestamp, UserName

MAX_WAITED_SESSIONS = 2000
"""Sessions in one question of a gateway's; it has up to 70 bytes for each, and a request to the controller 256 KiB."""


class ResolveRequest(Strict):
    """A connection that the gateway, or a user's own `berth connect`, wants to make."""

    user: str
    """Who connects. From anyone but the gateway's account it must be the caller."""
    target: Annotated[str, StringConstraints(max_length=255)]
    """The host name that the client asked for: `name`, `name.<domain>` or `owner.name.<domain>`."""
    root: bool = False
    """For `berth exec --root`: a session in root mode, which is refused otherwise, as it lets in nobody but `root`."""
    waited: Annotated[float, Field(ge=0)] = 0.0
    """Seconds for which the one who connects has been waiting, after answers that it is on its way."""
    patient: bool = False
    """They see how far it is, and wait as long as it takes."""
    hold: bool = True
    """Whether the controller may keep the question while the session is on its way; a gateway waits by itself."""


class ResolveAnswer(Strict):
    session_id: str
    owner: str
    name: str
    generation: str
    host: str
    port: int
    fingerprint: str


class GatewayWait(Strict):
    """The sessions that clients of one worker of a gateway wait for."""

    sessions: Annotated[list[KnownSession], Field(min_length=1, max_length=MAX_WAITED_SESSIONS)]
    seconds: Annotated[float, Field(ge=0, le=60)]
    """Seconds for which the controller may keep the question."""


class GatewayWaitAnswer(Strict):
    changed: list[str]
    """The ids of those whose revision is another one; none after `seconds`."""


class ConnectionRecord(Strict):
    """One connection to a session, as whoever carries it knows it; the same again, newer, as it goes on."""

    id: Annotated[str, StringConstraints(pattern=f"^{IDENTIFIER.pattern}$")]
    user: UserName
    fingerprint: Annotated[str, StringConstraints(pattern=r"^(SHA256:[A-Za-z0-9+/]{43})?$")] = ""
    """Of the key that opened the gateway; empty where something else let the user in."""
    peer: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.:%-]{0,80}$")] = ""
    """Where the client is: its address and port."""
    session_id: Annotated[str, StringConstraints(max_length=26)]
    generation: Annotated[str, StringConstraints(max_length=40)]
    began_at: Timestamp
    ended_at: Timestamp | None = None
    sent: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Bytes from the client to the session."""
    received: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Bytes from the session to the client."""
    end: Annotated[str, StringConstraints(max_length=40)] = ""
    """How it ended: `closed`, `client lost`, `session lost`, `gateway stopped`; `not followed` if nobody looked on."""


class ConnectionReport(Strict):
    """News of connections, from a gateway or from somebody's own `berth connect`."""

    gateway: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z._-]{0,253}$")] = ""
    """Which one; of anybody but the gateway's account it is not believed."""
    connections: Annotated[list[ConnectionRecord], Field(max_length=MAX_ITEMS), FailFast()]


class ConnectionsNoted(Strict):
    noted: int
    """Those of sessions that nobody knows are not."""


class ConnectionView(Strict):
    """A connection to a session, as the session's owner sees it."""

    id: str
    session: str
    user: str
    fingerprint: str
    peer: str
    gateway: str
    """The gateway that carries it; empty for `berth connect` and `berth ssh`."""
    generation: str
    began_at: float
    seen_at: float
    """When it was last told of; bytes are as of then."""
    ended_at: float | None
    sent: int
    received: int
    end: str
    """Empty while it stands."""


class ConnectionList(Strict):
    connections: list[ConnectionView]


CONNECTION_TIMEOUT_S = 180.0
"""Seconds after which a connection counts as lost without a report of its gateway or `berth connect`: three times
audit.STANDING and connect.STANDING."""
