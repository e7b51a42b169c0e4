"""Types of keys and certificates for logging in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from broker.names import MAX_CERTIFICATE_HOURS, MAX_FINGERPRINT_CHARS
from broker.schema.base import Strict


class KeyAdd(Strict):
    public_key: Annotated[str, StringConstraints(max_length=16384)]
    """One line of an authorized_keys file, without options."""


class KeyView(Strict):
    fingerprint: str
    algorithm: str
    comment: str = ""
    source: str
    """`berth` for keys of `berth key add`, `authorized_keys` for keys of the user's own file."""
    added_at: float | None = None


class KeyList(Strict):
    keys: list[KeyView]


class GatewayKeys(Strict):
    """The public keys that may log in to the gateway as `user`; one authorized_keys line each."""

    user: str
    keys: list[str]
    notices: list[str] = []
    """Messages about all sessions after the login, one line each; only if the gateway, an older one, requests them."""
    session_notices: dict[str, str] = {}
    """The message after a login that names a session, by the session's name; only on request. The empty name is for a
    login that names none: it has a message if the user has one session only."""
    authorities: list[str] = []
    """Authorities whose certificates for `user` are accepted; only on request, like `revoked`."""
    revoked: list[str] = []
    """Keys whose certificates are not accepted."""


class CertificateRequest(Strict):
    """A request of the gateway for a certificate of its host key."""

    public_key: Annotated[str, StringConstraints(max_length=16384)]


class CertificateAnswer(Strict):
    certificate: str
    """One line, as in ssh_host_ed25519_key-cert.pub."""


class UserCertificateRequest(Strict):
    """A request for a certificate of one of the caller's keys."""

    public_key: Annotated[str, StringConstraints(max_length=16384)]
    hours: Annotated[float, Field(gt=0, le=MAX_CERTIFICATE_HOURS)] | None = None
    """Validity; default and maximum are the site's limit."""


class UserCertificateView(Strict):
    """The record of the certificates for one of the user's keys."""

    fingerprint: str
    comment: str
    serial: int
    """Serial number of the last certificate."""
    issued_at: float
    valid_before: float
    revoked_at: float | None


class UserCertificateAnswer(Strict):
    certificate: str
    """One line, as in id_ed25519-cert.pub."""
    view: UserCertificateView


class UserCertificateList(Strict):
    certificates: list[UserCertificateView]


AuthorityKind = Literal["host", "user", "web"]
"""The kind of an authority: `host` signs for sessions and the gateway, `user` for users, `web` for berth-web."""


class AuthorityKeyView(Strict):
    """A key of one of the certificate authorities."""

    kind: AuthorityKind
    fingerprint: str
    public_key: str
    standing: Literal["announced", "signing", "former"]
    """`announced`: signs after the next rotation. `former`: still trusted for the certificates that it has signed."""
    since: float


class AuthorityList(Strict):
    keys: list[AuthorityKeyView]


class RotateRequest(Strict):
    now: bool = False
    """Do not wait until clients have learnt the announced key."""


class RetireRequest(Strict):
    fingerprint: Annotated[str, StringConstraints(max_length=MAX_FINGERPRINT_CHARS)]
    now: bool = False
    """Retire it even if certificates that it has signed may be valid."""
