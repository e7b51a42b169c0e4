"""Read a session's host key files in OpenSSH's format: private key, public key and certificate.

Standard library only: the launcher's children import it, to read files of users.
"""

from __future__ import annotations

import base64
import binascii

from broker.ssh.wire import WireReader, encode_string

ALGORITHM = b"ssh-ed25519"
_CERTIFICATE = b"ssh-ed25519-cert-v01@openssh.com"
_MAGIC = b"openssh-key-v1\0"
_BEGIN, _END = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"


def public_key_of(private: str) -> bytes:
    """Return the public key of a private key in OpenSSH's format (PROTOCOL.key), as RFC 4253 encodes it.

    ValueError for a key that sshd cannot use: another algorithm, a passphrase, damage. That the secret belongs to the
    public key is not checked.
    """
    lines = private.split()
    if not private.startswith(_BEGIN) or not private.rstrip().endswith(_END):
        raise ValueError("not a private key in OpenSSH's format")
    words = len(_BEGIN.split())
    data = _decode("".join(lines[words:-words]))
    if not data.startswith(_MAGIC):
        raise ValueError("not a private key in OpenSSH's format")
    outer = WireReader(data[len(_MAGIC) :])
    cipher, kdf, _ = outer.string(), outer.string(), outer.string()
    if (cipher, kdf, outer.uint32()) != (b"none", b"none", 1):
        raise ValueError("the key has a passphrase, or the file has several keys")
    public = outer.string()
    inner = WireReader(outer.string())
    if inner.uint32() != inner.uint32() or inner.string() != ALGORITHM:
        raise ValueError("the key is damaged, or is not an ed25519 key")
    point, secret = inner.string(), inner.string()
    if len(point) != 32 or len(secret) != 64 or secret[32:] != point or public != encode_public_key(point):
        raise ValueError("the two halves of the key differ")
    return public


def encode_public_key(point: bytes) -> bytes:
    """Encode an ed25519 public key as in RFC 8709."""
    return encode_string(ALGORITHM) + encode_string(point)


def certified_key(certificate: str) -> bytes | None:
    """Return the certified public key of a line of a `-cert.pub` file; None for any other text."""
    try:
        blob = WireReader(_decode(certificate.split()[1]))
        if blob.string() != _CERTIFICATE:
            return None
        blob.string()  # the nonce
        return encode_public_key(blob.string())
    except (ValueError, IndexError):
        return None


def public_key_line(public: bytes, comment: str) -> str:
    """Return one line of a `.pub` file, without the line end."""
    return f"{ALGORITHM.decode()} {base64.b64encode(public).decode()} {comment}"


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
