"""Public ssh keys at the edge: from untrusted text to one validated type.

The formats are those of sshd(8), "AUTHORIZED_KEYS FILE FORMAT", and RFC 4253, section 6.6. Text that is not exactly a
plain key never becomes a PublicKey, so whoever holds one needs no further checks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
from dataclasses import dataclass

import asyncssh

from broker import sshwire
from broker.errors import InvalidInputError

ALGORITHMS = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",  # the name of the key's format; what it may sign with is in SIGNATURES
)
"""Types of keys that may log in."""

SIGNATURES = (*(name for name in ALGORITHMS if name != "ssh-rsa"), "rsa-sha2-512", "rsa-sha2-256")
"""Signatures that are believed: all but RSA with SHA-1, which OpenSSH gave up with version 8.8."""

MIN_RSA_BITS = 2048
"""NIST SP 800-131A revision 2 disallows less for signatures."""

MAX_RSA_BITS = 16384
"""As OpenSSH: verifying a signature must stay cheap."""

MAX_LINE = 16384
"""Characters of one line; an RSA key of 16384 bits takes about 2,800."""

MAX_FILE_KEYS = 256
"""Keys taken from one authorized_keys file; the rest of the file is not looked at."""

_COMMENT_LENGTH = 256


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One public key: its algorithm, its RFC 4253 encoding and a comment of printable characters."""

    algorithm: str
    blob: bytes
    comment: str = ""

    @classmethod
    def parse(cls, line: str) -> PublicKey:
        """Read one authorized_keys line without options; InvalidInputError says what is wrong and how to mend it."""
        text = line.strip()
        _refuse_what_is_no_line(text)
        fields = text.split(None, 2)
        algorithm = fields[0]
        if algorithm not in ALGORITHMS:
            raise _not_an_algorithm(algorithm)
        if len(fields) < 2:
            raise InvalidInputError(f"the key after {algorithm!r} is missing", hint=_EXAMPLE)
        return cls(algorithm, _decode(algorithm, fields[1]), _clean(fields[2] if len(fields) > 2 else ""))

    @property
    def line(self) -> str:
        """The key as one authorized_keys line, without a line end."""
        return " ".join(filter(None, (self.algorithm, base64.b64encode(self.blob).decode(), self.comment)))

    @property
    def fingerprint(self) -> str:
        """`SHA256:…` as ssh-keygen(1) prints it."""
        return fingerprint_of(self.blob)


def fingerprint_of(blob: bytes) -> str:
    """Give the `SHA256:…` of a key's RFC 4253 encoding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def plain_keys(authorized_keys: str) -> list[PublicKey]:
    """Read a user's own authorized_keys file: the plain keys in it, each once, in the file's order.

    A line with options (`command=…`, `restrict`, `from=…`, `cert-authority`) narrows what its key may do. Berth cannot
    keep all of these promises, so such a line is skipped as a whole: a key is never given more than its owner gave it.
    A key that is listed both with and without options is skipped too, because sshd takes the first match and the
    narrower line may come first. Comments, damaged lines, keys that are too weak and lines over MAX_LINE are skipped.
    """
    found: dict[bytes, PublicKey] = {}
    narrowed: set[bytes] = set()
    for text in authorized_keys.splitlines():
        if len(found) >= MAX_FILE_KEYS:
            break
        try:
            key = PublicKey.parse(text)
        except InvalidInputError:
            narrowed |= _blobs_in(text)
            continue
        found.setdefault(key.blob, key)
    return [key for blob, key in found.items() if blob not in narrowed]


_EXAMPLE = "give the content of a .pub file, such as: ssh-ed25519 AAAA… you@laptop"


def _refuse_what_is_no_line(text: str) -> None:
    if not text or text.startswith("#"):
        raise InvalidInputError("there is no public key in this text", hint=_EXAMPLE)
    if "PRIVATE KEY" in text:
        raise InvalidInputError(
            "this is a private key, which must never leave your machine", hint="give the file whose name ends in .pub"
        )
    if len(text) > MAX_LINE:
        raise InvalidInputError(f"a public key is at most {MAX_LINE} characters long", hint=_EXAMPLE)
    if not text.isascii() and not text.split(None, 1)[0].isascii():
        raise InvalidInputError("this is not a public key", hint=_EXAMPLE)
    if "\n" in text or "\r" in text or "\0" in text:
        raise InvalidInputError("one key a line, please", hint="add several keys one by one")


def _not_an_algorithm(word: str) -> InvalidInputError:
    if "-cert-v0" in word:
        return InvalidInputError(
            "this is a certificate, not a key", hint="give the .pub file without -cert in its name"
        )
    if word in {"ssh-dss", "ssh-dsa"}:
        return InvalidInputError("DSA keys are not accepted", hint="make a new one: ssh-keygen -t ed25519")
    if "=" in word or "," in word or word in _OPTION_WORDS:
        return InvalidInputError(
            "options in front of a key are not accepted here",
            hint="leave them out: the line must begin with the key's type, such as ssh-ed25519",
        )
    return InvalidInputError(f"unknown type of key: {_clean(word)[:40]!r}", hint=_EXAMPLE)


_OPTION_WORDS = {
    "restrict", "cert-authority", "agent-forwarding", "port-forwarding", "pty", "user-rc", "x11-forwarding",
    "no-agent-forwarding", "no-port-forwarding", "no-pty", "no-user-rc", "no-x11-forwarding", "no-touch-required",
    "verify-required",
}  # fmt: skip


def _decode(algorithm: str, encoded: str) -> bytes:
    """Decode and check the key itself: the encoding, the type named inside it, the curve point, the size."""
    damaged = InvalidInputError(
        f"the {algorithm} key is damaged", hint="copy the whole line of the .pub file, unbroken"
    )
    try:
        blob = base64.b64decode(encoded, validate=True)
        key = asyncssh.import_public_key(f"{algorithm} {encoded}\n")
    except (binascii.Error, ValueError, asyncssh.KeyImportError) as error:
        raise damaged from error
    if key.public_data != blob or sshwire.Reader(blob).string() != algorithm.encode():
        raise damaged
    if algorithm == "ssh-rsa" and not MIN_RSA_BITS <= _rsa_bits(blob) <= MAX_RSA_BITS:
        raise InvalidInputError(
            f"RSA keys must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, this one has {_rsa_bits(blob)}",
            hint="make a new one: ssh-keygen -t ed25519",
        )
    return blob


def _rsa_bits(blob: bytes) -> int:
    """The size of the modulus: the third field, after the name and the exponent (RFC 4253, section 6.6)."""
    fields = sshwire.Reader(blob)
    fields.string(), fields.string()
    return int.from_bytes(fields.string(), "big").bit_length()


def _blobs_in(line: str) -> set[bytes]:
    """Every word of a refused line that could be a key: whatever follows the name of an algorithm."""
    if len(line) > MAX_LINE or line.lstrip().startswith("#"):
        return set()
    words = line.split()
    blobs = set()
    for name, encoded in itertools.pairwise(words):
        if name in ALGORITHMS:
            try:
                blobs.add(base64.b64decode(encoded, validate=True))
            except (binascii.Error, ValueError):
                continue
    return blobs


def _clean(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).strip()[:_COMMENT_LENGTH]
