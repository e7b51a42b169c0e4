"""Read a session's host key files in OpenSSH's format: private key, public key and certificate.

Standard library only: the launcher's workers read files of users with it.
"""

from __future__ import annotations

import base64
import binascii

from broker.ssh.wire import Reader, string

ALGORITHM = b"ssh-ed25519"
_CERTIFICATE = b"ssh-ed25519-cert-v01@openssh.com"
_MAGIC = b"openssh-key-v1\0"
_BEGIN, _END = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"


def public_half(private: str) -> bytes:
    """Return the public key of a private one, as RFC 4253 encodes it.

    ValueError for what sshd cannot take as it is: another algorithm, a passphrase, damage. The form is that of
    OpenSSH's PROTOCOL.key. It is not checked that the secret belongs to the public key that is beside it.
    """
    lines = private.split()
    if not private.startswith(_BEGIN) or not private.rstrip().endswith(_END):
        raise ValueError("not a private key of OpenSSH's form")
    words = len(_BEGIN.split())
    data = _decode("".join(lines[words:-words]))
    if not data.startswith(_MAGIC):
        raise ValueError("not a private key of OpenSSH's form")
    outer = Reader(data[len(_MAGIC) :])
    cipher, kdf, _ = outer.string(), outer.string(), outer.string()
    if (cipher, kdf, outer.uint32()) != (b"none", b"none", 1):
        raise ValueError("the key has a passphrase, or the file has several keys")
    public = outer.string()
    inner = Reader(outer.string())
    if inner.uint32() != inner.uint32() or inner.string() != ALGORITHM:
        raise ValueError("the key is damaged, or is no ed25519 key")
    point, secret = inner.string(), inner.string()
    if len(point) != 32 or len(secret) != 64 or secret[32:] != point or public != encoded(point):
        raise ValueError("the two halves of the key differ")
    return public


def encoded(point: bytes) -> bytes:
    """An ed25519 public key as RFC 8709 has it on the wire."""
    return string(ALGORITHM) + string(point)


def certified(certificate: str) -> bytes | None:
    """Return the public key that a line of a `-cert.pub` file is for; None for any other text."""
    try:
        blob = Reader(_decode(certificate.split()[1]))
        if blob.string() != _CERTIFICATE:
            return None
        blob.string()  # the nonce
        return encoded(blob.string())
    except (ValueError, IndexError):
        return None


def line(public: bytes, comment: str) -> str:
    """One line of a `.pub` file, without its end."""
    return f"{ALGORITHM.decode()} {base64.b64encode(public).decode()} {comment}"


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
