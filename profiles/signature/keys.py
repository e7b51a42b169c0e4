"""Keys of signatures: ed25519, or ECDSA on P-256 with SHA-256, as PEM files of openssl(1).

`openssl genpkey -algorithm ed25519 -out FILE` makes a private key, `openssl pkey -in FILE -pubout` prints its public
key. A signature of ECDSA is in DER, as openssl(1) and cosign have it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from profiles.errors import KeyFileError
from profiles.userfile import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_KEY_BYTES = 8 * 1024
"""Limit of a PEM file: a key of these kinds has 300 bytes, and comments may stand before it."""
SHOWN_KEY_CHARS = len("sha256:") + 16
"""So much of a key's id is shown: enough to tell the keys of a site apart."""
KEY_HINT = (
    "`openssl genpkey -algorithm ed25519 -out FILE` makes a private key, `openssl pkey -in FILE -pubout` its public key"
)
_KINDS = "only ed25519 and P-256 are accepted"


@dataclass(frozen=True, slots=True)
class PublicSigningKey:
    """The public half of a key of signatures."""

    key: Ed25519PublicKey | EllipticCurvePublicKey
    key_id: str
    """`sha256:…` of the key in DER (SubjectPublicKeyInfo)."""

    def verifies(self, signature: bytes, content: bytes) -> bool:
        """Whether the private half of this key has signed the content."""
        try:
            if isinstance(self.key, Ed25519PublicKey):
                self.key.verify(signature, content)
            else:
                self.key.verify(signature, content, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateSigningKey:
    """The private half of a key of signatures."""

    key: Ed25519PrivateKey | EllipticCurvePrivateKey
    public: PublicSigningKey

    def sign(self, content: bytes) -> bytes:
        """Return the signature of the content."""
        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(content)
        return self.key.sign(content, ECDSA(SHA256()))


def parse_public_signing_key(pem: bytes, source: str) -> PublicSigningKey:
    """Return the public key in PEM text. KeyFileError, which names `source`, for everything else."""
    if b"PRIVATE KEY" in pem:
        raise KeyFileError(f"{source} has a private key: only the public key belongs there", hint=KEY_HINT)
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{source} is no public key in PEM form", hint=KEY_HINT) from error
    if isinstance(key, Ed25519PublicKey) or (
        isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    ):
        return _with_id(key)
    raise KeyFileError(f"{source} has a key of another kind: {_KINDS}", hint=KEY_HINT)


def read_public_signing_key(path: Path) -> PublicSigningKey:
    """Return the public key in a PEM file. KeyFileError if there is none."""
    return parse_public_signing_key(_read_key_file(path, private=False), str(path))


def read_private_signing_key(
    path: Path, ask_passphrase: Callable[[], bytes | None] = lambda: None
) -> PrivateSigningKey:
    """Return the private key in a PEM file, which only its owner may read. KeyFileError if there is none.

    `ask_passphrase` is called for an encrypted key; None without a terminal.
    """
    pem = _read_key_file(path, private=True)
    passphrase = ask_passphrase() if b"ENCRYPTED" in pem else None
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError as error:  # an encrypted key without a passphrase
        raise KeyFileError(f"{path} is encrypted, and there is no passphrase for it", hint="use a terminal") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        problem = "is no private key in PEM form" if passphrase is None else "cannot be decrypted with this passphrase"
        raise KeyFileError(f"{path} {problem}", hint=KEY_HINT) from error
    if isinstance(key, Ed25519PrivateKey) or (
        isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)
    ):
        return PrivateSigningKey(key, _with_id(key.public_key()))
    raise KeyFileError(f"{path} has a key of another kind: {_KINDS}", hint=KEY_HINT)


def _with_id(key: Ed25519PublicKey | EllipticCurvePublicKey) -> PublicSigningKey:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicSigningKey(key, f"sha256:{hashlib.sha256(der).hexdigest()}")


def _read_key_file(path: Path, *, private: bool) -> bytes:
    try:
        with open_regular(path, MAX_KEY_BYTES, own=False, follow=True) as file:
            mode = os.fstat(file.fileno()).st_mode
            if private and mode & 0o077:
                raise KeyFileError(
                    f"other users can read or change the private key {path} (mode {stat.S_IMODE(mode):03o})",
                    hint=f"run `chmod 600 {path}`, and replace the key if someone may have read it",
                )
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise KeyFileError(f"cannot read the key {path}: {error.strerror}", hint="check the path") from error
