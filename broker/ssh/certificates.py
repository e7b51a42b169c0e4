"""Sign and parse OpenSSH certificates (PROTOCOL.certkeys).

With host certificates, one line in known_hosts replaces all questions about host keys. With user certificates, no
public key of a user has to be in a session.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncssh

from broker.errors import InvalidInputError
from broker.ssh import wire
from broker.ssh.ca import CaKeys
from broker.ssh.keys import SIGNATURES, PublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CLOCK_SKEW_S = 300
"""Seconds by which a certificate is backdated: a client's clock may be that much behind (docs/security.md, F15)."""

_PRINCIPAL = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,253}[a-z0-9])?")
_USER_CERTIFICATE, _HOST_CERTIFICATE = 1, 2  # SSH_CERT_TYPE_USER and SSH_CERT_TYPE_HOST
_KEY_FIELDS = {
    "ssh-ed25519": 1,
    "sk-ssh-ed25519@openssh.com": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
    "ssh-rsa": 2,
}
"""The number of strings that encode the certified key, by algorithm: e and n for RSA, curve and point, application. A
PublicKey has the same strings after the algorithm's name."""


def owner_principals(session_id: str) -> list[str]:
    """Return the principals with which berth-web reaches all services of a session (broker/job/service/door.sh)."""
    return [f"web:{session_id}"]


def guest_principals(session_id: str, service: str) -> list[str]:
    """Return those with which it reaches one service alone, and can have the session admit it to that one."""
    return [f"web:{session_id}:{service}", f"web-admit:{session_id}"]


class CertificateAuthority:
    """Signs keys. Its private key can impersonate any session or any user, so it stays in the controller."""

    def __init__(self, keys: CaKeys) -> None:
        self.keys = keys

    @classmethod
    def load_or_create(cls, path: Path, comment: str = "berth certificate authority") -> CertificateAuthority:
        """Load the private key at `path`; create it at first use. RefusedError as from `private_key.load_or_create`."""
        return cls(CaKeys(path, comment=comment))

    @property
    def public_line(self) -> str:
        """The signing key as an OpenSSH public-key line."""
        return self.trusted_lines[0]

    @property
    def trusted_lines(self) -> list[str]:
        """All trusted keys, for `@cert-authority` in known_hosts."""
        return [key.public.line for key in self.keys.all]

    def sign_host(
        self, public_key_line: str, principals: Sequence[str], *, valid_seconds: float, serial: int, key_id: str
    ) -> str:
        """Return a host certificate for the key, as one line of a `-cert.pub` file.

        It is valid from CLOCK_SKEW_S seconds ago until `valid_seconds` from now, for exactly these lower-case host
        names. InvalidInputError for an empty list, which would be valid for every host, and for a `*`. sshd(8) and
        `ssh-keygen -L` show `key_id`; a revocation list contains `serial` (64 bits).
        """
        public = PublicKey.parse(public_key_line)
        if not principals:
            raise InvalidInputError("a host certificate needs at least one host name")
        for principal in principals:
            if not _PRINCIPAL.fullmatch(principal):
                raise InvalidInputError(f"invalid host name for a certificate: {principal!r}")
        if valid_seconds <= 0:
            raise InvalidInputError("the validity of a host certificate must be above 0 s")
        now = int(time.time())
        certificate = self.keys.signing.generate_host_certificate(
            asyncssh.import_public_key(public.line),
            key_id,
            serial=serial,
            principals=list(principals),
            valid_after=now - CLOCK_SKEW_S,
            valid_before=now + int(valid_seconds),
            comment=public.comment or key_id,
        )
        return certificate.export_certificate().decode().strip()

    def sign_user(self, public_key_line: str, user: str, *, valid_seconds: float, serial: int, key_id: str) -> str:
        """Return a user certificate for the key. Only `user` may log in with it, for `valid_seconds` from now, with the
        same rights as with a key.
        """
        public = PublicKey.parse(public_key_line)
        now = int(time.time())
        certificate = self.keys.signing.generate_user_certificate(
            asyncssh.import_public_key(public.line),
            key_id,
            serial=serial,
            principals=[user],
            valid_after=now - CLOCK_SKEW_S,
            valid_before=now + int(valid_seconds),
            comment=public.comment or key_id,
        )
        return certificate.export_certificate().decode().strip()

    def sign_web(
        self,
        public_key_line: str,
        principals: Sequence[str],
        *,
        sources: Sequence[str],
        valid_seconds: float,
        serial: int,
        key_id: str,
    ) -> str:
        """Return a user certificate for berth-web's key, which permits forwarding and nothing else.

        `principals`: owner_principals or guest_principals of one session. It is valid for connections from `sources`,
        which are networks in CIDR notation.
        """
        public = PublicKey.parse(public_key_line)
        now = int(time.time())
        certificate = self.keys.signing.generate_user_certificate(
            asyncssh.import_public_key(public.line),
            key_id,
            serial=serial,
            principals=list(principals),
            valid_after=now - CLOCK_SKEW_S,
            valid_before=now + int(valid_seconds),
            permit_x11_forwarding=False,
            permit_agent_forwarding=False,
            permit_pty=False,
            permit_user_rc=False,
            source_address=sources,
            comment=key_id,
        )
        return certificate.export_certificate().decode().strip()


@dataclass(frozen=True, slots=True)
class HostCertificate:
    """A host certificate: its line, its key, and its validity (seconds since the epoch)."""

    line: str
    key_blob: bytes
    valid_after: int
    valid_before: int

    @classmethod
    def parse(cls, line: str) -> HostCertificate:
        """Parse an ed25519 host certificate; ValueError for any other text. The signature is not verified."""
        found = _Fields.parse(asyncssh.import_certificate(line).public_data)
        if found.algorithm != "ssh-ed25519":
            raise ValueError("not an ed25519 certificate")
        if found.kind != _HOST_CERTIFICATE:
            raise ValueError("not a host certificate")
        return cls(line.strip(), found.key_blob, found.valid_after, found.valid_before)


@dataclass(frozen=True, slots=True)
class UserCertificate:
    """A user certificate, as the verifying server needs it."""

    key: PublicKey
    """The certified key, of an algorithm and size that may log in."""
    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    authority: bytes
    """The public key of the signing authority, in its RFC 4253 encoding."""

    @classmethod
    def parse(cls, blob: bytes) -> UserCertificate:
        """Parse the certificate that a client offers; ValueError for other data and for signatures with SHA-1.

        The signature and the critical options are not checked: asyncssh checks both.
        """
        found = _Fields.parse(blob)
        if found.kind != _USER_CERTIFICATE:
            raise ValueError("not a user certificate")
        if found.signed_with not in SIGNATURES:
            raise ValueError(f"signed with {found.signed_with}")
        try:
            key = PublicKey.parse(f"{found.algorithm} {base64.b64encode(found.key_blob).decode()}")
        except InvalidInputError as error:
            raise ValueError(error.message) from error
        return cls(
            key=key,
            serial=found.serial,
            key_id=found.key_id.decode(errors="replace"),
            principals=tuple(name.decode(errors="replace") for name in found.principals),
            valid_after=found.valid_after,
            valid_before=found.valid_before,
            authority=found.authority,
        )

    def is_valid_for(self, user: str, now: float) -> bool:
        """Whether `user` may log in with it at `now`. Without principals it is valid for no user, as in sshd(8)."""
        return user in self.principals and self.valid_after <= now < self.valid_before


@dataclass(frozen=True, slots=True)
class _Fields:
    algorithm: str
    key_blob: bytes
    serial: int
    kind: int
    key_id: bytes
    principals: list[bytes]
    valid_after: int
    valid_before: int
    authority: bytes
    signed_with: str

    @classmethod
    def parse(cls, blob: bytes) -> _Fields:
        """Parse a certificate; ValueError for other data and for unknown algorithms."""
        fields = wire.WireReader(blob)
        algorithm = fields.string().decode().removesuffix("-cert-v01@openssh.com")
        if algorithm.startswith("sk-"):
            algorithm += "@openssh.com"
        if algorithm not in _KEY_FIELDS:
            raise ValueError("not a certificate of a supported algorithm")
        fields.string()  # nonce
        key = [algorithm.encode(), *(fields.string() for _ in range(_KEY_FIELDS[algorithm]))]
        serial, kind, key_id = fields.uint64(), fields.uint32(), fields.string()
        principals = list(wire.read_strings(fields.string()))
        valid_after, valid_before = fields.uint64(), fields.uint64()
        fields.string(), fields.string(), fields.string()  # critical options, extensions, reserved
        authority = fields.string()
        signed_with = wire.WireReader(fields.string()).string().decode()
        return cls(
            algorithm=algorithm,
            key_blob=b"".join(map(wire.encode_string, key)),
            serial=serial,
            kind=kind,
            key_id=key_id,
            principals=principals,
            valid_after=valid_after,
            valid_before=valid_before,
            authority=authority,
            signed_with=signed_with,
        )
