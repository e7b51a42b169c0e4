"""Types of connections: a session's endpoint, and records of connected users."""

from __future__ import annotations

from typing import Annotated

from pydantic import FailFast, Field, StringConstraints

from broker.names import (
    IDENTIFIER,
    MAX_HOST_CHARS,
    MAX_ITEMS,
)
from broker.schema.base import KnownSession, Strict, Timestamp, UserName
from broker.schema.grants import Role

NOT_FOLLOWED = "not followed"
"""The end of a connection of which only the beginning is known, as of `berth ssh`."""
MAX_WAITED_SESSIONS = 2000
"""Sessions in one request of a gateway, with up to 70 bytes each; a request to the controller has at most 256 KiB."""
MAX_WORKER_GUESTS = 2000
"""Guests of one worker of a gateway, all of which are in each of its reports, with up to 110 bytes each."""


class ResolveRequest(Strict):
    """A connection that the gateway, or a user's own `berth connect`, wants to make."""

    user: str
    """The connecting user. Only the gateway's account may name another user than the caller."""
    target: Annotated[str, StringConstraints(max_length=MAX_HOST_CHARS)]
    """The requested host name: `name`, `name.<domain>` or `owner.name.<domain>`."""
    root: bool = False
    """Allow a session in root mode, for `berth exec --root`; otherwise it is refused, since only `root` can log in."""
    waited: Annotated[float, Field(ge=0)] = 0.0
    """Seconds for which the client has been waiting for the session."""
    patient: bool = False
    """Whether the client shows progress and waits without a time limit."""
    shown: str | None = None
    """The state that a patient client shows, empty at first: the controller responds as soon as there is another. None:
    the controller responds to changes only."""
    hold: bool = True
    """Whether the controller may delay its response until the session is ready; a gateway waits by itself."""


class ResolveAnswer(Strict):
    session_id: str
    owner: str
    name: str
    generation: str
    host: str
    port: int
    fingerprint: str
    role: Role | None = None
    """The role by which a guest gets in, with the login name GUEST_LOGIN; None for the owner."""


class GuestConnection(Strict):
    """A guest who is connected to a session through a gateway."""

    session_id: Annotated[str, StringConstraints(pattern=f"^{IDENTIFIER.pattern}$")]
    user: UserName


class GatewayGuests(Strict):
    """The guests whom one worker of a gateway has connected. A later list of the worker replaces an earlier one."""

    worker: Annotated[str, StringConstraints(pattern=f"^{IDENTIFIER.pattern}$")]
    number: Annotated[int, Field(ge=0, lt=2**63)]
    """Grows with each list: one that another has overtaken is ignored."""
    guests: Annotated[list[GuestConnection], Field(max_length=MAX_WORKER_GUESTS)]
    seconds: Annotated[float, Field(ge=0, le=60)]
    """Seconds for which the controller may delay its response."""


class GatewayGuestsAnswer(Strict):
    ended: list[GuestConnection]
    """Those whose access has ended: the worker closes their connections, and sends a list without them."""


class GatewayWait(Strict):
    """The sessions that clients of one worker of a gateway wait for."""

    sessions: Annotated[list[KnownSession], Field(min_length=1, max_length=MAX_WAITED_SESSIONS)]
    seconds: Annotated[float, Field(ge=0, le=60)]
    """Seconds for which the controller may delay its response."""


class GatewayWaitAnswer(Strict):
    changed: list[str]
    """The ids of the sessions with another revision; empty after `seconds`."""


class ConnectionRecord(Strict):
    """A connection to a session, as reported by the process that forwards it; a later record replaces an earlier."""

    id: Annotated[str, StringConstraints(pattern=f"^{IDENTIFIER.pattern}$")]
    user: UserName
    fingerprint: Annotated[str, StringConstraints(pattern=r"^(SHA256:[A-Za-z0-9+/]{43})?$")] = ""
    """Fingerprint of the key with which the user logged in to the gateway; empty without a gateway."""
    peer: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.:%-]{0,80}$")] = ""
    """The client's address and port."""
    session_id: Annotated[str, StringConstraints(max_length=26)]
    generation: Annotated[str, StringConstraints(max_length=40)]
    began_at: Timestamp
    ended_at: Timestamp | None = None
    sent: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Bytes from the client to the session."""
    received: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Bytes from the session to the client."""
    end: Annotated[str, StringConstraints(max_length=40)] = ""
    """The cause of its end: `closed`, `client lost`, `session lost`, `gateway stopped`; `not followed` if unknown."""


class ConnectionReport(Strict):
    """Records of connections, from a gateway or from a user's `berth connect`."""

    gateway: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z._-]{0,253}$")] = ""
    """The gateway's name; ignored unless the caller is the gateway's account."""
    connections: Annotated[list[ConnectionRecord], Field(max_length=MAX_ITEMS), FailFast()]


class ConnectionsNoted(Strict):
    noted: int
    """Number of records that were kept; records of unknown sessions are not."""


class ConnectionView(Strict):
    """A connection to a session, as the session's owner sees it."""

    id: str
    session: str
    user: str
    fingerprint: str
    peer: str
    gateway: str
    """The gateway that forwards it; empty for `berth connect` and `berth ssh`."""
    generation: str
    began_at: float
    seen_at: float
    """Time of the last report; the byte counts are of that time."""
    ended_at: float | None
    sent: int
    received: int
    end: str
    """Empty while it is open."""
    role: Role | None = None
    """The role by which a guest is in; None for the owner, and once the connection has ended."""


class GuestVisitView(Strict):
    """A guest who may use a service of the session in a browser now, and has opened it."""

    user: str
    service: str
    role: Role = Role.PORT
    began_at: float
    expires_at: float


class ConnectionList(Strict):
    connections: list[ConnectionView]
    guests: list[GuestVisitView] = []
    terminals: int | None = None
    """Number of terminals that logins have open, also through `berth ssh`, as the job reported a few seconds ago; only
    on request, and null if it is unknown."""


CONNECTION_TIMEOUT_S = 180.0
"""Seconds without a report after which a connection counts as lost: three times REPORT_INTERVAL_S of gateway.audit and
client.proxy_command."""
