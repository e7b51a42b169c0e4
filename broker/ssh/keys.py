"""Parse untrusted text to validated public keys.

The formats are those of sshd(8), "AUTHORIZED_KEYS FILE FORMAT", and RFC 4253, section 6.6. Text that is not exactly a
plain key never becomes a PublicKey, so whoever holds one needs no further checks.

Lines and words are those of sshd: only a line feed ends a line, only spaces and tabs separate words. Python's own
`splitlines()`, `split()` and `strip()` know more separators, and must not be used on this text.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
from dataclasses import dataclass

import asyncssh

from broker.errors import InvalidInputError
from broker.ssh import wire

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
"""Keys taken from one authorized_keys file. The lines after them are still read for restrictions."""

_COMMENT_LENGTH = 256

_BLANK = " \t"
"""White space of sshd: between words, and skipped at the beginning of a line."""

_PLAIN = re.compile(
    rf"(?P<algorithm>{'|'.join(map(re.escape, ALGORITHMS))})[ \t]+(?P<encoded>[A-Za-z0-9+/]+={{0,2}})"
    r"(?:[ \t]+(?P<comment>.*))?",
    re.DOTALL,
)
"""A line without options: the name of a type, the key, and perhaps a comment."""

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters of ASCII but the tab, those of Latin-1, and what Unicode takes for the end of a line or of a
paragraph. sshd takes some of them for a part of the key and others for the end of the file."""

_FEWEST_CHARACTERS = 68
"""Characters of an Ed25519 key in base64: nothing that is shorter is a key of ALGORITHMS."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One public key: its algorithm, its RFC 4253 encoding and a comment of printable characters."""

    algorithm: str
    blob: bytes
    comment: str = ""

    @classmethod
    def parse(cls, line: str) -> PublicKey:
        """Read one authorized_keys line without options; InvalidInputError says what is wrong and how to mend it."""
        text = _bare(line)
        match = _PLAIN.fullmatch(text)
        if match is None or len(text) > MAX_LINE or _CONTROL.search(text):
            raise _complaint(text)
        return cls(match["algorithm"], _decode(match["algorithm"], match["encoded"]), _clean(match["comment"] or ""))

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
    narrower line may come first. The same holds for every line that Berth cannot read: it may be a restricted one for
    some sshd. So damaged lines, lines over MAX_LINE and lines with control characters only ever take a key away.
    Comments and keys that are too weak are skipped. The text must be the whole file: a part of it could lack the
    restriction of a key.
    """
    plain: dict[str, str] = {}
    narrowed: set[tuple[bytes, ...]] = set()
    for line in authorized_keys.split("\n"):
        text = _bare(line)
        if not text or text.startswith("#"):
            continue
        match = _PLAIN.fullmatch(text)
        if match is None or len(text) > MAX_LINE or _CONTROL.search(text):
            narrowed |= _keys_in(text)
        elif len(match["encoded"]) >= _FEWEST_CHARACTERS:
            plain.setdefault(match["encoded"], text)
    found: list[PublicKey] = []
    for text in plain.values():
        try:
            key = PublicKey.parse(text)
        except InvalidInputError:
            continue
        if _fields(key.blob) not in narrowed:
            found.append(key)
        if len(found) == MAX_FILE_KEYS:
            break
    return found


_EXAMPLE = "give the content of a .pub file, such as: ssh-ed25519 AAAA… you@laptop"


def _bare(line: str) -> str:
    """Take away the line's end, of Unix or Windows, and the blanks around it. sshd, too, ignores a carriage return that
    follows a key: it skips white space where it decodes base64.
    """
    return line.removesuffix("\n").removesuffix("\r").strip(_BLANK)


def _complaint(text: str) -> InvalidInputError:
    """Say why a text is no plain key."""
    word, *rest = re.split(f"[{_BLANK}]+", text, maxsplit=1)
    message, hint = "", _EXAMPLE
    if not text or text.startswith("#"):
        message = "there is no public key in this text"
    elif "PRIVATE KEY" in text:
        message, hint = "this is a private key, which must never leave your machine", "give the file that ends in .pub"
    elif len(text) > MAX_LINE:
        message = f"a public key is at most {MAX_LINE} characters long"
    elif "\n" in text or "\r" in text:
        message, hint = "one key a line, please", "add several keys one by one"
    elif _CONTROL.search(text):
        message = "there is a control character in this text"
    elif not word.isascii():
        message = "this is not a public key"
    elif word in ALGORITHMS and not rest:
        message = f"the key after {word!r} is missing"
    if message:
        return InvalidInputError(message, hint=hint)
    return _damaged(word) if word in ALGORITHMS else _not_an_algorithm(word)


def _damaged(algorithm: str) -> InvalidInputError:
    return InvalidInputError(f"the {algorithm} key is damaged", hint="copy the whole line of the .pub file, unbroken")


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
    try:
        blob = base64.b64decode(encoded, validate=True)
        key = asyncssh.import_public_key(f"{algorithm} {encoded}\n")
    except (binascii.Error, ValueError, asyncssh.KeyImportError) as error:
        raise _damaged(algorithm) from error
    # sshd refuses base64 that has other bits after the last byte than zeros, as RFC 4648, section 3.5, lets it.
    if key.public_data != blob or base64.b64encode(blob).decode() != encoded:
        raise _damaged(algorithm)
    if wire.Reader(blob).string() != algorithm.encode():
        raise _damaged(algorithm)
    if algorithm == "ssh-rsa" and not MIN_RSA_BITS <= _rsa_bits(blob) <= MAX_RSA_BITS:
        raise InvalidInputError(
            f"RSA keys must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, this one has {_rsa_bits(blob)}",
            hint="make a new one: ssh-keygen -t ed25519",
        )
    return blob


def _rsa_bits(blob: bytes) -> int:
    """The size of the modulus: the third field, after the name and the exponent (RFC 4253, section 6.6)."""
    fields = wire.Reader(blob)
    fields.string(), fields.string()
    return int.from_bytes(fields.string(), "big").bit_length()


def _keys_in(line: str) -> set[tuple[bytes, ...]]:
    """List the fields of all that could be a key in a refused line, decoded as tolerantly as any sshd may do it.

    A key may have control characters in it or around it, which sshd skips. It may lack padding, and follow any word.
    """
    keys = set()
    for word in {*re.split("[ \t\0]", line), *line.split()}:
        encoded = _NOT_BASE64.sub("", word)
        if len(encoded) < _FEWEST_CHARACTERS:
            continue
        with contextlib.suppress(ValueError):
            keys.add(_fields(binascii.a2b_base64(encoded + "==")))
    return keys


def _fields(blob: bytes) -> tuple[bytes, ...]:
    """Give what sshd compares of two keys: a number is the same with more zeros ahead. ValueError if it is no key."""
    return tuple(field.lstrip(b"\0") for field in wire.strings(blob))


_NOT_BASE64 = re.compile("[^A-Za-z0-9+/]")


def _clean(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).strip()[:_COMMENT_LENGTH]
