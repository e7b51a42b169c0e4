"""Types of keys and certificates for logging in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from broker.schema.base import Strict


class KeyAdd(Strict):
    public_key: Annotated[str, StringConstraints(max_length=16384)]
    """One line of an authorized_keys file, without options."""


class KeyView(Strict):
    fingerprint: str
    algorithm: str
    comment: str = ""
    source: str
    """`berth` for keys added with `berth key add`, `authorized_keys` for those found in the user's own file."""
    added_at: float | None = None


class KeyList(Strict):
    keys: list[KeyView]


class GatewayKeys(Strict):
    """The public keys that may log in to the gateway as `user`; one authorized_keys line each."""

    user: str
    keys: list[str]
    notices: list[str] = []
    """What to tell them when they have logged in, one line each; only for a gateway that asks for it."""
    authorities: list[str] = []
    """Whose certificates for `user` let them in; only for a gateway that asks for it, as `revoked`."""
    revoked: list[str] = []
    """Keys whose certificates do not."""


class CertificateRequest(Strict):
    """The gateway asks for a certificate of its own host key."""

    public_key: Annotated[str, StringConstraints(max_length=16384)]


class CertificateAnswer(Strict):
    certificate: str
    """One line, as in ssh_host_ed25519_key-cert.pub."""


class UserCertificateRequest(Strict):
    """The caller wants a certificate for a key of theirs."""

    public_key: Annotated[str, StringConstraints(max_length=16384)]
    hours: Annotated[float, Field(gt=0, le=24 * 31)] | None = None
    """For how long; no longer than the site allows, which is the default."""


class UserCertificateView(Strict):
    """What is remembered of the certificates for one of the user's keys."""

    fingerprint: str
    comment: str
    serial: int
    """Of the last one."""
    issued_at: float
    valid_before: float
    revoked_at: float | None


class UserCertificateAnswer(Strict):
    certificate: str
    """One line, as in id_ed25519-cert.pub."""
    view: UserCertificateView


class UserCertificateList(Strict):
    certificates: list[UserCertificateView]


AuthorityKind = Literal["host", "user"]
"""Whether an authority signs for sessions and gateway, or for users."""


class AuthorityKeyView(Strict):
    """A key of one of the certificate authorities."""

    kind: AuthorityKind
    fingerprint: str
    public_key: str
    standing: Literal["announced", "signing", "former"]
    """`announced`: signs from the next rotation on. `former`: believed still for what it has signed."""
    since: float


class AuthorityList(Strict):
    keys: list[AuthorityKeyView]


class RotateRequest(Strict):
    now: bool = False
    """Do not wait for those who have not learnt the key that is announced."""


class RetireRequest(Strict):
    fingerprint: Annotated[str, StringConstraints(max_length=64)]
    now: bool = False
    """Although certificates that it has signed may be valid."""
