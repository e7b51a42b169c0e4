"""Types of web access: links, logged-in browsers, and the requests of berth-web. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from broker.names import IDENTIFIER, MAX_ITEMS, REFERENCE_PATTERN
from broker.schema.base import Name, Strict, Timestamp, UserName
from broker.schema.services import ServiceName

MAX_CHECKED = 5000
"""Visits in one check: about 150 KB, within the controller's limit of a request."""

DELEGATION_HEADER = "Berth-Delegation"
"""The header with the delegation's secret, in requests of berth-web for a user."""

WATCH_STREAMS_PATH = "/v1/web/streams"
WATCHES_PATH = "/v1/web/watches"
WATCH_ENDED_EVENT = "ended"
"""The event of a stream that a browser's watch has ended; the others are those of schema.watch."""

WEB_LOGIN = "berth-web"
"""The login name in sessions that opens nothing but services."""

Id = Annotated[str, StringConstraints(pattern=f"^{IDENTIFIER.pattern}$")]

Secret = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
"""A random text in base64url (RFC 4648). The registry has only its SHA-256."""

OriginHost = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]{1,253}$")]
"""The host name of a service's origin, without a port."""

BrowserText = Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x20-\x7e]*$")]
"""The User-Agent header of a browser, shortened."""

ClientAddress = Annotated[str, StringConstraints(max_length=64, pattern=r"^[0-9a-fA-F.:]*$")]


class Target(Strict):
    """A service of one of the caller's sessions, or one of another user's that is shared with the caller."""

    session: Annotated[str, StringConstraints(pattern=REFERENCE_PATTERN)]
    """`NAME`, or `OWNER.NAME`."""
    service: ServiceName


class LinkRequest(Strict):
    """A user's request for a link that logs a browser in."""

    target: Target | None = None
    """The service that the browser opens after that; the portal if there is none."""


class LinkAnswer(Strict):
    url: str
    """The address to open. Its secret is in the fragment, which browsers do not send."""
    login_url: str
    """The page at which the code can be typed, for browsers without scripts."""
    code: str
    expires_at: Timestamp


class BrowserView(Strict):
    """A logged-in browser."""

    id: Id
    browser: BrowserText
    address: ClientAddress
    created_at: Timestamp
    used_at: Timestamp
    expires_at: Timestamp
    login: Literal["link", "provider"] = "link"
    """The proof of the login: a link or its code, or the OpenID provider."""
    current: bool = False
    """Whether the request has come from this browser."""


class BrowserList(Strict):
    browsers: Annotated[list[BrowserView], Field(max_length=MAX_ITEMS)]


class LogoutAnswer(Strict):
    """The end of browsers' logins."""

    ended: list[BrowserView]
    closed: bool
    """Whether berth-web has said that all of their connections are closed. Otherwise it closes them when it is back."""


class DelegationRequest(Strict):
    """The proof with which a browser logs in, as berth-web received it."""

    proof: Secret
    """The secret or the code of a link."""
    browser: BrowserText = ""
    address: ClientAddress = ""


class LoginPreview(Strict):
    """The effect of a link, for the browser's user to confirm."""

    user: UserName
    target: Target | None


class DelegationAnswer(Strict):
    """The login of a browser, which keeps the secret in a cookie; berth-web keeps nothing."""

    id: Id
    secret: Secret
    user: UserName
    expires_at: Timestamp
    target: Target | None


class VisitRequest(Strict):
    """A delegate's request to open a service: by name, or by the host name that the browser has asked for."""

    target: Target | None = None
    host: OriginHost | None = None

    @model_validator(mode="after")
    def _one(self) -> VisitRequest:
        if (self.target is None) == (self.host is None):
            raise ValueError("give a target or a host")
        return self


class VisitAnswer(Strict):
    """The permission of one browser to use one service, until the end of its delegation."""

    id: Id
    secret: Secret
    """With it berth-web asks for the session's endpoint as long as the visit lasts."""
    delegation_id: Id
    user: UserName
    owner: UserName
    session_id: Id
    session: Name
    service: ServiceName
    host: OriginHost
    expires_at: Timestamp


class DoorRequest(Strict):
    """A request of berth-web for the way into the session of a visit."""

    visit: Secret
    public_key: Annotated[str, StringConstraints(max_length=1024)]


class DoorAnswer(Strict):
    """The way to the sshd of a session that runs, for a few minutes."""

    host: Annotated[str, StringConstraints(max_length=255)]
    port: Annotated[int, Field(ge=1, le=65535)]
    host_key_alias: Annotated[str, StringConstraints(max_length=255)]
    """The name for which the host certificate is valid."""
    known_hosts: list[str]
    """Lines for `UserKnownHostsFile`: authorities for hosts, and revoked keys."""
    login: str
    """The login name that opens nothing but services."""
    certificate: str
    """One line, for the public key of the request."""


class EndedVisits(Strict):
    """Visits and delegations that are no longer valid, for berth-web to close: at least one."""

    delegation_ids: Annotated[list[Id], Field(max_length=MAX_ITEMS)] = []
    visit_ids: Annotated[list[Id], Field(max_length=MAX_ITEMS)] = []

    @model_validator(mode="after")
    def _some(self) -> EndedVisits:
        if not self.delegation_ids and not self.visit_ids:
            raise ValueError("name a delegation or a visit")
        return self


class VisitCheck(Strict):
    """The visits that berth-web knows, after its restart."""

    visit_ids: Annotated[list[Id], Field(max_length=MAX_CHECKED)]


class ValidVisits(Strict):
    """Those of them that are valid."""

    visit_ids: list[Id]


class WatchStreamRequest(Strict):
    """A request of berth-web for a stream with the changes of all browsers whose pages are open."""

    id: Id
    """Chosen by berth-web."""


class BrowserWatchRequest(Strict):
    """A delegate's request to have the changes of its sessions in one of berth-web's streams."""

    stream: Id
    id: Id
    """Chosen by berth-web: the events of this browser have it."""


class BrowserWatchAnswer(Strict):
    delegation_id: Id
    expires_at: Timestamp
    """The time at which the watch ends at the latest."""


class WatchEnded(Strict):
    ended: bool
    """Whether there was such a watch."""
