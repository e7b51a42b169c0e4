"""OpenSSH certificates (PROTOCOL.certkeys): sign them, and parse them for those who verify.

With one line in known_hosts no host key is ever asked about again; with certificates for users no key of theirs needs
to lie in a session.
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

CLOCK_SKEW = 300
"""Seconds that a certificate is backdated: a client's clock may be behind ours by so much (docs/security.md, F15)."""

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
"""How many strings of a certificate are the certified key: e and n of RSA, curve and point, an application's name. As
PublicKey has them too, after the name of the type."""


class CertificateAuthority:
    """Signs keys. Whoever holds its private key passes for any session, or any user: it stays in the controller."""

    def __init__(self, keys: CaKeys) -> None:
        self.keys = keys

    @classmethod
    def load_or_create(cls, path: Path, comment: str = "berth certificate authority") -> CertificateAuthority:
        """Take the private key at `path`, made at first use; what is refused is said in broker.ssh.private_key."""
        return cls(CaKeys(path, comment=comment))

    @property
    def public_line(self) -> str:
        """The key that signs, one OpenSSH public-key line."""
        return self.trusted_lines[0]

    @property
    def trusted_lines(self) -> list[str]:
        """All keys whose signatures are to be believed, for `@cert-authority` in known_hosts."""
        return [key.public.line for key in self.keys.all]

    def sign_host(
        self, public_key_line: str, principals: Sequence[str], *, valid_seconds: float, serial: int, key_id: str
    ) -> str:
        """Return a host certificate for the key, as one line of a `-cert.pub` file.

        It is valid from CLOCK_SKEW seconds ago until `valid_seconds` from now, for exactly these lower-case host
        names. An empty list would make it valid for every host, and a `*` for many, so both are InvalidInputError.
        `key_id` is what sshd(8) and `ssh-keygen -L` show; `serial` (64 bits) is what a revocation list names.
        """
        public = PublicKey.parse(public_key_line)
        if not principals:
            raise InvalidInputError("a host certificate needs at least one host name")
        for principal in principals:
            if not _PRINCIPAL.fullmatch(principal):
                raise InvalidInputError(f"not a host name that can be certified: {principal!r}")
        if valid_seconds <= 0:
            raise InvalidInputError("a host certificate must be valid for some time")
        now = int(time.time())
        certificate = self.keys.signing.generate_host_certificate(
            asyncssh.import_public_key(public.line),
            key_id,
            serial=serial,
            principals=list(principals),
            valid_after=now - CLOCK_SKEW,
            valid_before=now + int(valid_seconds),
            comment=public.comment or key_id,
        )
        return certificate.export_certificate().decode().strip()

    def sign_user(self, public_key_line: str, user: str, *, valid_seconds: float, serial: int, key_id: str) -> str:
        """Return a user certificate for the key: `user` alone may log in with it, for `valid_seconds` from now, and do
        everything that a key may.
        """
        public = PublicKey.parse(public_key_line)
        now = int(time.time())
        certificate = self.keys.signing.generate_user_certificate(
            asyncssh.import_public_key(public.line),
            key_id,
            serial=serial,
            principals=[user],
            valid_after=now - CLOCK_SKEW,
            valid_before=now + int(valid_seconds),
            comment=public.comment or key_id,
        )
        return certificate.export_certificate().decode().strip()


@dataclass(frozen=True, slots=True)
class HostCertificate:
    """A host certificate as its bearer needs it: the line, and when it begins and ends (seconds since the epoch)."""

    line: str
    key_blob: bytes
    valid_after: int
    valid_before: int

    @classmethod
    def parse(cls, line: str) -> HostCertificate:
        """Read an ed25519 host certificate. ValueError if it is none.

        The signature is not checked: that is for those who are to trust it.
        """
        found = _Fields.parse(asyncssh.import_certificate(line).public_data)
        if found.algorithm != "ssh-ed25519":
            raise ValueError("not an ed25519 certificate")
        if found.kind != _HOST_CERTIFICATE:
            raise ValueError("not a host certificate")
        return cls(line.strip(), found.key_blob, found.valid_after, found.valid_before)


@dataclass(frozen=True, slots=True)
class UserCertificate:
    """A user certificate as whoever is to let its bearer in needs it."""

    key: PublicKey
    """The key that is certified, of a kind and size that may log in."""
    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    authority: bytes
    """The public key that has signed it, in its RFC 4253 encoding."""

    @classmethod
    def parse(cls, blob: bytes) -> UserCertificate:
        """Read what a client offers. ValueError if it is no user certificate, or one that is signed with SHA-1.

        Whether the signature is right is for the ssh library to say, and what its options forbid as well.
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
            principals=tuple(each.decode(errors="replace") for each in found.principals),
            valid_after=found.valid_after,
            valid_before=found.valid_before,
            authority=found.authority,
        )

    def lets_in(self, user: str, now: float) -> bool:
        """Whether it is `user`'s and valid then. One that names nobody is nobody's, as for sshd(8)."""
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
        """ValueError if this is no certificate of a kind of key that we know."""
        fields = wire.Reader(blob)
        algorithm = fields.string().decode().removesuffix("-cert-v01@openssh.com")
        if algorithm.startswith("sk-"):
            algorithm += "@openssh.com"
        if algorithm not in _KEY_FIELDS:
            raise ValueError("not a certificate of a known kind of key")
        fields.string()  # nonce
        key = [algorithm.encode(), *(fields.string() for _ in range(_KEY_FIELDS[algorithm]))]
        serial, kind, key_id = fields.uint64(), fields.uint32(), fields.string()
        principals = list(wire.strings(fields.string()))
        valid_after, valid_before = fields.uint64(), fields.uint64()
        fields.string(), fields.string(), fields.string()  # critical options, extensions, reserved
        authority = fields.string()
        signed_with = wire.Reader(fields.string()).string().decode()
        return cls(
            algorithm=algorithm,
            key_blob=b"".join(map(wire.string, key)),
            serial=serial,
            kind=kind,
            key_id=key_id,
            principals=principals,
            valid_after=valid_after,
            valid_before=valid_before,
            authority=authority,
            signed_with=signed_with,
        )
