"""Parse untrusted text to validated public keys.

The formats are those of sshd(8), "AUTHORIZED_KEYS FILE FORMAT", and RFC 4253, section 6.6. Only text that is exactly a
plain key becomes a PublicKey, so a PublicKey needs no further checks.

Lines and words are split as in sshd: only a line feed ends a line, only spaces and tabs separate words. Python's
`splitlines()`, `split()` and `strip()` accept more separators and must not be used on this text.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
from dataclasses import dataclass

from broker.errors import InvalidInputError
from broker.ssh import wire

ALGORITHMS = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",  # the name of the key's format; SIGNATURES has its signature algorithms
)
"""Algorithms of keys that may log in."""

SIGNATURES = (*(name for name in ALGORITHMS if name != "ssh-rsa"), "rsa-sha2-512", "rsa-sha2-256")
"""Accepted signature algorithms: all except RSA with SHA-1, which OpenSSH 8.8 disabled."""

MIN_RSA_BITS = 2048
"""NIST SP 800-131A revision 2 disallows less for signatures."""

MAX_RSA_BITS = 16384
"""OpenSSH's limit, which keeps the verification of a signature cheap."""

MAX_LINE_CHARS = 16384
"""An RSA key of 16384 bits has about 2,800 characters."""

MAX_FILE_KEYS = 256
"""Keys accepted from one authorized_keys file. The lines after them are still checked for restrictions."""

_MAX_COMMENT_CHARS = 256

_BLANK = " \t"
"""White space in sshd: it separates words, and is skipped at the beginning of a line."""

_PLAIN = re.compile(
    rf"(?P<algorithm>{'|'.join(map(re.escape, ALGORITHMS))})[ \t]+(?P<encoded>[A-Za-z0-9+/]+={{0,2}})"
    r"(?:[ \t]+(?P<comment>.*))?",
    re.DOTALL,
)
"""A line without options: algorithm, key, optional comment."""

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters of ASCII except the tab, those of Latin-1, and Unicode's line and paragraph separators. sshd takes
some of them as a part of the key, and others as the end of the file."""

_MIN_KEY_CHARS = 68
"""The length of an Ed25519 key in base64, which is the shortest key of ALGORITHMS."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One public key: its algorithm, its RFC 4253 encoding and a comment of printable characters."""

    algorithm: str
    blob: bytes
    comment: str = ""

    @classmethod
    def parse(cls, line: str) -> PublicKey:
        """Parse one authorized_keys line without options. InvalidInputError has the reason and a hint."""
        text = _strip(line)
        match = _PLAIN.fullmatch(text)
        if match is None or len(text) > MAX_LINE_CHARS or _CONTROL.search(text):
            raise _parse_error(text)
        return cls(match["algorithm"], _decode(match["algorithm"], match["encoded"]), _clean(match["comment"] or ""))

    @property
    def line(self) -> str:
        """The key as one authorized_keys line, without a line end."""
        return " ".join(filter(None, (self.algorithm, base64.b64encode(self.blob).decode(), self.comment)))

    @property
    def fingerprint(self) -> str:
        """The fingerprint `SHA256:…`, as ssh-keygen(1) prints it."""
        return fingerprint_of(self.blob)


def fingerprint_of(blob: bytes) -> str:
    """Return the fingerprint `SHA256:…` of a key's RFC 4253 encoding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def plain_keys(authorized_keys: str) -> list[PublicKey]:
    """Return the plain keys of a user's authorized_keys file, each once, in the file's order.

    A line with options (`command=…`, `restrict`, `from=…`, `cert-authority`) restricts its key. Berth cannot enforce
    all of them, so it skips the line: a key never gets more rights than its owner gave it. A key with and
    without options is skipped too, because sshd uses the first match, which may be the restricted one. The same holds
    for every line that Berth cannot parse: some sshd may read it as a restricted line. So damaged lines, lines over
    MAX_LINE_CHARS and lines with control characters can only remove a key. Comments and weak keys are skipped. The text
    must be the whole file: a part of it could lack a key's restriction.
    """
    plain: dict[str, str] = {}
    restricted: set[tuple[bytes, ...]] = set()
    for line in authorized_keys.split("\n"):
        text = _strip(line)
        if not text or text.startswith("#"):
            continue
        match = _PLAIN.fullmatch(text)
        if match is None or len(text) > MAX_LINE_CHARS or _CONTROL.search(text):
            restricted |= _keys_in(text)
        elif len(match["encoded"]) >= _MIN_KEY_CHARS:
            plain.setdefault(match["encoded"], text)
    keys: list[PublicKey] = []
    for text in plain.values():
        try:
            key = PublicKey.parse(text)
        except InvalidInputError:
            continue
        if _fields(key.blob) not in restricted:
            keys.append(key)
        if len(keys) == MAX_FILE_KEYS:
            break
    return keys


_EXAMPLE = "use the content of a .pub file, such as: ssh-ed25519 AAAA… you@laptop"


def _strip(line: str) -> str:
    """Remove the line end, of Unix or Windows, and the blanks around the text.

    sshd also ignores a carriage return after a key: it skips white space when it decodes base64.
    """
    return line.removesuffix("\n").removesuffix("\r").strip(_BLANK)


def _parse_error(text: str) -> InvalidInputError:
    """Return the error that explains why a text is not a plain key."""
    word, *rest = re.split(f"[{_BLANK}]+", text, maxsplit=1)
    message, hint = "", _EXAMPLE
    if not text or text.startswith("#"):
        message = "the text has no public key"
    elif "PRIVATE KEY" in text:
        message, hint = "this is a private key, which must never leave your machine", "use the file that ends in .pub"
    elif len(text) > MAX_LINE_CHARS:
        message = f"a public key has at most {MAX_LINE_CHARS} characters"
    elif "\n" in text or "\r" in text:
        message, hint = "the text has several lines", "add several keys one by one"
    elif _CONTROL.search(text):
        message = "the text has a control character"
    elif not word.isascii():
        message = "the text is not a public key"
    elif word in ALGORITHMS and not rest:
        message = f"the key after {word!r} is missing"
    if message:
        return InvalidInputError(message, hint=hint)
    return _damaged_key(word) if word in ALGORITHMS else _not_an_algorithm(word)


def _damaged_key(algorithm: str) -> InvalidInputError:
    return InvalidInputError(f"the {algorithm} key is damaged", hint="copy the whole line of the .pub file, unbroken")


def _not_an_algorithm(word: str) -> InvalidInputError:
    if "-cert-v0" in word:
        return InvalidInputError("this is a certificate, not a key", hint="use the .pub file without -cert in its name")
    if word in {"ssh-dss", "ssh-dsa"}:
        return InvalidInputError("DSA keys are not accepted", hint="create a new key: ssh-keygen -t ed25519")
    if "=" in word or "," in word or word in _OPTION_WORDS:
        return InvalidInputError(
            "options before a key are not accepted here",
            hint="remove them: the line must begin with the key's type, such as ssh-ed25519",
        )
    return InvalidInputError(f"unknown key type: {_clean(word)[:40]!r}", hint=_EXAMPLE)


_OPTION_WORDS = {
    "restrict", "cert-authority", "agent-forwarding", "port-forwarding", "pty", "user-rc", "x11-forwarding",
    "no-agent-forwarding", "no-port-forwarding", "no-pty", "no-user-rc", "no-x11-forwarding", "no-touch-required",
    "verify-required",
}  # fmt: skip


def _decode(algorithm: str, encoded: str) -> bytes:
    """Decode and check the key: its encoding, the algorithm named in it, the curve point, the size."""
    import asyncssh  # noqa: PLC0415 - it takes longer to import than all the rest of a command, and few parse keys

    try:
        blob = base64.b64decode(encoded, validate=True)
        key = asyncssh.import_public_key(f"{algorithm} {encoded}\n")
    except (binascii.Error, ValueError, asyncssh.KeyImportError) as error:
        raise _damaged_key(algorithm) from error
    # sshd refuses base64 with bits other than zero after the last byte, as RFC 4648, section 3.5, allows.
    if key.public_data != blob or base64.b64encode(blob).decode() != encoded:
        raise _damaged_key(algorithm)
    if wire.WireReader(blob).string() != algorithm.encode():
        raise _damaged_key(algorithm)
    if algorithm == "ssh-rsa" and not MIN_RSA_BITS <= _rsa_bits(blob) <= MAX_RSA_BITS:
        raise InvalidInputError(
            f"RSA keys must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, this key has {_rsa_bits(blob)}",
            hint="create a new key: ssh-keygen -t ed25519",
        )
    return blob


def _rsa_bits(blob: bytes) -> int:
    """Return the size of the modulus: the third field, after the name and the exponent (RFC 4253, section 6.6)."""
    fields = wire.WireReader(blob)
    fields.string(), fields.string()
    return int.from_bytes(fields.string(), "big").bit_length()


def _keys_in(line: str) -> set[tuple[bytes, ...]]:
    """Return the fields of everything that could be a key in a refused line, decoded as tolerantly as any sshd does.

    A key may contain control characters, which sshd skips. It may lack padding, and may follow any word.
    """
    keys = set()
    for word in {*re.split("[ \t\0]", line), *line.split()}:
        encoded = _NOT_BASE64.sub("", word)
        if len(encoded) < _MIN_KEY_CHARS:
            continue
        with contextlib.suppress(ValueError):
            keys.add(_fields(binascii.a2b_base64(encoded + "==")))
    return keys


def _fields(blob: bytes) -> tuple[bytes, ...]:
    """Return the fields that sshd compares: leading zeros of a number do not count. ValueError if it is not a key."""
    return tuple(field.lstrip(b"\0") for field in wire.read_strings(blob))


_NOT_BASE64 = re.compile("[^A-Za-z0-9+/]")


def _clean(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).strip()[:_MAX_COMMENT_CHARS]
