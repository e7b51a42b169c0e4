"""The answer to a registry's challenge: which login it wants, and the tokens that it gives for one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit, urlunsplit

from profiles.errors import TransferError
from profiles.oci.descriptor import parse_json
from profiles.oci.registry_login import MAX_SECRET_CHARACTERS

MAX_CHALLENGE_CHARACTERS = 4096
_PARAMETER = re.compile(r'\s*([a-z_]+)="([^"\\\x00-\x1f\x7f]*)"\s*(?:,|$)')
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/=-]{{1,{MAX_SECRET_CHARACTERS}}}")
_ANOTHER = re.compile(r",\s*(?=(?:Basic|Bearer)\s)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Challenge:
    """The demand of a registry for a login (RFC 7235, and the token authentication of `distribution`)."""

    is_bearer: bool
    realm: str
    service: str = ""

    @classmethod
    def parse(cls, headers: list[str]) -> Challenge:
        """Read the headers `WWW-Authenticate`; a Bearer challenge is preferred. Raises TransferError."""
        found = [cls._parse_one(each) for header in headers for each in _ANOTHER.split(header)]
        known = sorted((each for each in found if each), key=lambda each: not each.is_bearer)
        if not known:
            raise TransferError("the registry asks for a kind of login that Berth does not know")
        return known[0]

    @classmethod
    def _parse_one(cls, header: str) -> Challenge | None:
        scheme, _, rest = header.strip().partition(" ")
        if scheme.lower() not in {"basic", "bearer"} or len(header) > MAX_CHALLENGE_CHARACTERS:
            return None
        if scheme.lower() == "basic":
            return cls(is_bearer=False, realm="")
        parameters: dict[str, str] = {}
        while rest:
            found = _PARAMETER.match(rest)
            if not found or found[1] in parameters:
                raise TransferError("the registry asks for a login in a form that is damaged")
            parameters[found[1]] = found[2]
            rest = rest[found.end() :]
        return cls(is_bearer=True, realm=parameters.get("realm", ""), service=parameters.get("service", ""))

    def token_url(self, scope: str) -> str:
        """Return the address that gives a token for `scope`. Raises TransferError if the realm is no address."""
        try:
            parts = urlsplit(self.realm)
        except ValueError as error:
            raise TransferError("the registry names an invalid address for its logins") from error
        if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username or parts.fragment:
            raise TransferError("the registry names an invalid address for its logins")
        query = urlencode({**({"service": self.service} if self.service else {}), "scope": scope})
        return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))


def parse_token(content: bytes) -> str:
    """Return the token of an answer. Raises TransferError."""
    data = parse_json(content, "the answer of the registry's login service")
    token = (data.get("token") or data.get("access_token")) if isinstance(data, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise TransferError("the registry's login service gave no valid token")
    return token
