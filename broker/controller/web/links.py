"""Links that log a browser in, each with a code that can be typed instead. They are in memory only, as hashes."""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.web.secret import hash_secret, new_secret
from broker.errors import RefusedError, TooManyError

if TYPE_CHECKING:
    from broker.schema.web import Target

CODE_ALPHABET = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""Letters and digits that no one mistakes for another: no I, L, O, 0 and 1."""
CODE_CHARS = 10
"""Letters of a code, 49 bits: with MAX_WRONG_CODES a minute, guessing one of a thousand takes thousands of years."""
WRONG_CODES_S = 60.0
MAX_ADDRESS_WRONG_CODES = 5
"""Wrong codes from one address within WRONG_CODES_S, after which no code from there is accepted. Links work
nevertheless.
"""
MAX_WRONG_CODES = 300
"""The same for all addresses together."""
MAX_USER_LINKS = 20
"""Links of one user at once; another one replaces the oldest."""

_UNUSABLE = "this link was used or has expired"
_HINT = "`berth portal` prints another one"


@dataclass(frozen=True, slots=True)
class NewLink:
    """A link as its user gets it."""

    secret: str
    code: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class LoginLink:
    """A link that no browser has used."""

    user: str
    uid: int
    """The uid of the process that has asked for it."""
    target: Target | None
    expires_at: float
    secret_hash: str
    code_hash: str


class LoginLinks:
    """The links that can be used now."""

    def __init__(self, lifetime_s: float) -> None:
        self._lifetime_s = lifetime_s
        self._links: list[LoginLink] = []
        """The oldest first."""
        self._wrong_codes: deque[tuple[float, str]] = deque(maxlen=MAX_WRONG_CODES)
        """Time and address of the last wrong codes."""

    def create(self, user: str, uid: int, target: Target | None) -> NewLink:
        self._drop_expired()
        own = [link for link in self._links if link.user == user]
        if len(own) >= MAX_USER_LINKS:
            self._links.remove(own[0])
        secret = new_secret()
        code = "".join(secrets.choice(CODE_ALPHABET) for _ in range(CODE_CHARS))
        expires_at = clock.now() + self._lifetime_s
        self._links.append(LoginLink(user, uid, target, expires_at, hash_secret(secret), hash_secret(code)))
        return NewLink(secret, f"{code[:5]}-{code[5:]}", expires_at)

    def consume(self, proof: str, address: str) -> LoginLink:
        """Return the link with this secret or code, which cannot be used again. Errors as of `find`."""
        link = self.find(proof, address)
        self._links.remove(link)
        return link

    def find(self, proof: str, address: str) -> LoginLink:
        """Return the link with this secret or code. `address`: that of the browser.

        RefusedError if there is none; TooManyError for a code after too many wrong ones.
        """
        self._drop_expired()
        code = _parse_code(proof)
        if code is not None:
            self._check_guesses(address)
        wanted = hash_secret(code or proof)
        for link in self._links:
            if wanted == (link.secret_hash if code is None else link.code_hash):
                return link
        if code is None:
            raise RefusedError(_UNUSABLE, hint=_HINT)
        self._wrong_codes.append((clock.monotonic(), address))
        raise RefusedError("this code is wrong, was used or has expired", hint=_HINT)

    def _drop_expired(self) -> None:
        now = clock.now()
        self._links = [link for link in self._links if link.expires_at > now]

    def _check_guesses(self, address: str) -> None:
        since = clock.monotonic() - WRONG_CODES_S
        recent = [source for at, source in self._wrong_codes if at > since]
        if len(recent) >= MAX_WRONG_CODES or recent.count(address) >= MAX_ADDRESS_WRONG_CODES:
            raise TooManyError(
                "too many wrong codes were typed within a minute",
                hint="open the link itself, or get another code with `berth portal` in a minute",
            )


def _parse_code(proof: str) -> str | None:
    """Return the code as it was made, None for a link's secret. Case and separators do not count."""
    code = proof.replace("-", "").upper()
    return code if len(code) == CODE_CHARS else None
