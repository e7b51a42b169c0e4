"""Keys of signers, and signed images of a few bytes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from profiles.signature.keys import PrivateSigningKey, parse_public_signing_key
from profiles.signature.policy import Signer
from profiles.signature.signing import signature_of, write_signature

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.image.store import Image


def signing_key(seed: int = 1) -> PrivateSigningKey:
    """An ed25519 key, another one for each number."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return PrivateSigningKey(key, parse_public_signing_key(public_pem(key).encode(), "test"))


def public_pem(key: Ed25519PrivateKey | PrivateSigningKey) -> str:
    private = key.key if isinstance(key, PrivateSigningKey) else key
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_file(path: Path, key: PrivateSigningKey) -> Path:
    """Write the private key to a file that only its owner may read."""
    path.write_bytes(key.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path


def signed(image: Image, key: PrivateSigningKey, at: float | None = None) -> Image:
    """Sign a published image in its store, and return it as the store has it now."""
    signature = signature_of(image, key, time.time() if at is None else at)
    write_signature(image, signature)
    return replace(image, signature=signature)


def signer(key: PrivateSigningKey, **limits: Any) -> Signer:  # noqa: ANN401 - fields of a signer
    return replace(Signer("team", key.public), **limits)
