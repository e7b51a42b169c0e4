"""The name of an image in a registry: `HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]`.

The grammar is that of the OCI distribution specification. The host is always said: without one, each program has a
registry of its own in mind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address

from profiles.errors import ReferenceInvalidError

MAX_REFERENCE_CHARACTERS = 512
MAX_REPOSITORY_CHARACTERS = 255
MAX_PORT = 65535

REFERENCE_FORM = "HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]"
DEFAULT_TAG = "latest"
DIGEST_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME_OR_SIX = rf"(?:(?P<name>{_LABEL}(?:\.{_LABEL})*)|\[(?P<six>[0-9a-f:.]{{2,45}})\])"
_HOST = re.compile(rf"{_NAME_OR_SIX}(?::(?P<port>[0-9]{{1,5}}))?")
_WORD = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_WORD}(?:/{_WORD})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SCHEMES = ("docker://", "oras://", "https://", "http://", "oci://")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """The checked parts of the name of an image. Make it with `parse`."""

    registry: str
    """The host, with its port if one was given, in lower case: `registry.example.org`, `localhost:5000`."""
    repository: str
    """The name of the repository, such as `team/triton`."""
    tag: str = ""
    digest: str = ""
    """`sha256:…` of a manifest; it decides if a tag is given too."""

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Read a name. Raises ReferenceInvalidError, which names the part that is wrong."""
        if not isinstance(text, str) or not text or len(text) > MAX_REFERENCE_CHARACTERS:
            raise _invalid("has no name, or a longer one than 512 characters", "")
        for scheme in _SCHEMES:
            if text.startswith(scheme):
                raise _invalid(f"begins with {scheme}", text, hint=f"write it without {scheme}")
        registry, slash, rest = text.partition("/")
        if not slash or not (set(registry) & set(".:[") or registry == "localhost"):
            raise _invalid("has no registry", text, hint=f"the form is {REFERENCE_FORM}")
        rest, at, digest = rest.partition("@")
        repository, colon, tag = rest.partition(":")
        _check_registry(registry.lower(), text)
        if len(repository) > MAX_REPOSITORY_CHARACTERS or not _REPOSITORY.fullmatch(repository):
            raise _invalid(
                "has an invalid name after the registry", text, hint="lower-case letters, digits, . _ - and /"
            )
        if colon and not _TAG.fullmatch(tag):
            raise _invalid("has an invalid tag", text, hint="at most 128 letters, digits, _ . and -")
        if at and not DIGEST_PATTERN.fullmatch(digest):
            raise _invalid("has an invalid digest", text, hint="it is sha256: and 64 digits from 0 to f")
        return cls(registry.lower(), repository, tag, digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"

    @property
    def target(self) -> str:
        """The part after `manifests/` in a request: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def host(self) -> str:
        """The host without its port and without brackets."""
        found = _HOST.fullmatch(self.registry)
        return (found["name"] or found["six"]) if found else self.registry

    @property
    def is_loopback(self) -> bool:
        """Whether the registry is on this machine, so that plain http is as safe as https."""
        return is_this_machine(self.host)

    def with_tag(self, tag: str) -> ImageReference:
        """Return the same repository with another tag, and without a digest. Raises ReferenceInvalidError."""
        if not _TAG.fullmatch(tag):
            raise _invalid("has an invalid tag", f"{self.registry}/{self.repository}:{tag}")
        return replace(self, tag=tag, digest="")

    def with_digest(self, digest: str) -> ImageReference:
        """Return the same repository with this digest of a manifest, and without a tag."""
        if not DIGEST_PATTERN.fullmatch(digest):
            raise _invalid("has an invalid digest", f"{self.registry}/{self.repository}@{digest}")
        return replace(self, tag="", digest=digest)


def is_this_machine(host: str) -> bool:
    """Whether a host, without port and brackets, is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_registry(registry: str, text: str) -> None:
    found = _HOST.fullmatch(registry)
    if not found or len(registry) > MAX_REPOSITORY_CHARACTERS:
        raise _invalid("has an invalid registry", text, hint="a host name or an address, and perhaps a port")
    if found["port"] and not 0 < int(found["port"]) <= MAX_PORT:
        raise _invalid("has an invalid port", text, hint="ports are 1 to 65535")
    if found["six"]:
        try:
            IPv6Address(found["six"])
        except ValueError as error:
            raise _invalid("has an invalid address", text) from error


def _invalid(why: str, text: str, *, hint: str = "") -> ReferenceInvalidError:
    shown = f"{text[:100]}{'…' if len(text) > 100 else ''}"
    return ReferenceInvalidError(
        f"the image {shown!r} {why}" if text else f"the image {why}", hint=hint or f"the form is {REFERENCE_FORM}"
    )
