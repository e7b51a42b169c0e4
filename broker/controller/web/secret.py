"""Secrets of web access, and the hashes that the controller keeps of them.

A secret has 256 random bits, so that a plain hash is enough: it cannot be found by trying.
"""

from __future__ import annotations

import hashlib
import secrets

_SECRET_BYTES = 32


def new_secret() -> str:
    """Return a random secret, as schema.web.Secret."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def hash_secret(secret: str) -> str:
    """Return the SHA-256 in hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest()
