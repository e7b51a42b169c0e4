"""Host names of the origins of web access: one for each service of each session, and one for the portal.

A browser keeps the pages of two origins apart (RFC 6454). Names are labels of one domain, so that one wildcard record
of DNS and one certificate are enough.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

PORTAL_LABEL = "portal"
"""No label of a service is equal to it: the readable ones contain `--`, and the hashed ones begin with `s-`."""
MAX_LABEL_CHARS = 63
"""Limit of a label of a host name (RFC 1035)."""
_PART = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_HASH_CHARS = 40


@dataclass(frozen=True, slots=True)
class Origins:
    """The origins below one address such as `https://apps.example.org`."""

    scheme: str
    domain: str
    port: int | None

    @classmethod
    def parse(cls, url: str) -> Origins:
        """Parse the address `web.url`. ValueError, in words, unless it is a scheme, a host name and perhaps a port."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or url != f"{parts.scheme}://{parts.netloc}":
            raise ValueError("must be an address such as https://apps.example.org, without a path")
        domain = parts.hostname
        if parts.username is not None or not all(_PART.fullmatch(label) for label in domain.split(".")):
            raise ValueError("must have a host name in lower-case letters, digits, single `-` and `.`")
        if parts.scheme == "http" and domain != "localhost" and not domain.endswith(".localhost"):
            raise ValueError("must begin with https:// unless its host name ends in .localhost")
        return cls(parts.scheme, domain, parts.port)

    @property
    def portal_host(self) -> str:
        return f"{PORTAL_LABEL}.{self.domain}"

    @property
    def portal_url(self) -> str:
        return self.url(self.portal_host)

    def url(self, host: str) -> str:
        """Return the address of an origin, without a path or a slash at the end."""
        return f"{self.scheme}://{host}" + ("" if self.port is None else f":{self.port}")

    def service_host(self, service: str, session: str, session_id: str, owner: str) -> str:
        return f"{service_label(service, session, session_id, owner)}.{self.domain}"


def service_label(service: str, session: str, session_id: str, owner: str) -> str:
    """Return the label of a service's host name: `SERVICE--SESSION--OWNER`, or a hash where that is not possible.

    Two different services have different labels. A label with `--` at its third character would be one of an
    internationalised name (RFC 5891).
    """
    readable = f"{service}--{session}--{owner}"
    plain = all(_PART.fullmatch(part) for part in (service, session, owner))
    if plain and len(readable) <= MAX_LABEL_CHARS and readable[2:4] != "--":
        return readable
    digest = hashlib.sha256("\0".join((service, session_id, owner)).encode()).hexdigest()
    return f"s-{digest[:_HASH_CHARS]}"


def split_label(label: str) -> tuple[str, str, str] | None:
    """Return service, session and owner of a readable label; None for another one."""
    parts = label.split("--")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None
