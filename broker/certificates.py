"""The broker's certificate authority: one line in known_hosts, and no host key is ever asked about again."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncssh

from broker import keyfile, sshwire
from broker.errors import InvalidInputError
from broker.keys import PublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CLOCK_SKEW = 300
"""Seconds that a certificate is backdated: a client's clock may be behind ours by so much (docs/security.md, F15)."""

_PRINCIPAL = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,253}[a-z0-9])?")
_HOST_CERTIFICATE = 2  # SSH_CERT_TYPE_HOST in OpenSSH's PROTOCOL.certkeys


class CertificateAuthority:
    """Signs host keys. Whoever holds its private key can pass for any session, so it stays in the controller."""

    def __init__(self, key: asyncssh.SSHKey) -> None:
        self._key = key

    @classmethod
    def load_or_create(cls, path: Path) -> CertificateAuthority:
        """Take the private key at `path`, made at first use; what is refused is said in broker.keyfile."""
        return cls(keyfile.load_or_create(path, comment="berth certificate authority"))

    @property
    def public_line(self) -> str:
        """One OpenSSH public-key line, for `@cert-authority` in known_hosts."""
        return self._key.export_public_key().decode().strip()

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
        certificate = self._key.generate_host_certificate(
            asyncssh.import_public_key(public.line),
            key_id,
            serial=serial,
            principals=list(principals),
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
        """Read an ed25519 host certificate (OpenSSH's PROTOCOL.certkeys). ValueError if it is none.

        The signature is not checked: that is for those who are to trust it.
        """
        fields = sshwire.Reader(asyncssh.import_certificate(line).public_data)
        if fields.string() != b"ssh-ed25519-cert-v01@openssh.com":
            raise ValueError("not an ed25519 certificate")
        fields.string()  # nonce
        key = fields.string()
        fields.uint64()  # serial
        if fields.uint32() != _HOST_CERTIFICATE:
            raise ValueError("not a host certificate")
        fields.string(), fields.string()  # key id, principals
        key_blob = sshwire.string(b"ssh-ed25519") + sshwire.string(key)
        return cls(line.strip(), key_blob, valid_after=fields.uint64(), valid_before=fields.uint64())
