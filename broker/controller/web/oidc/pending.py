"""Logins that browsers have begun at the provider. They are in memory only, with hashes of what browsers have."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from broker.controller import clock
from broker.controller.web.secret import hash_secret, new_secret
from broker.errors import RefusedError

MAX_LOGINS: Final = 10_000
"""Logins at once, at some 700 bytes; another one replaces the oldest."""
MAX_ADDRESS_LOGINS: Final = 100
"""The same from one address, so that no address can push out the logins of others."""


@dataclass(frozen=True, slots=True)
class NewLogin:
    """A login as the browser and the provider get it."""

    state: str
    secret: str
    nonce: str
    verifier: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class BegunLogin:
    """A login whose answer has not come."""

    secret_hash: str
    nonce: str
    verifier: str
    address: str
    expires_at: float


class PendingLogins:
    """The logins that can be completed now."""

    def __init__(self, lifetime_s: float) -> None:
        self._lifetime_s = lifetime_s
        self._logins: dict[str, BegunLogin] = {}
        """By the hash of the state, the oldest first."""

    def begin(self, address: str) -> NewLogin:
        self._drop_expired()
        same = [state for state, each in self._logins.items() if each.address == address]
        if len(same) >= MAX_ADDRESS_LOGINS:
            del self._logins[same[0]]
        elif len(self._logins) >= MAX_LOGINS:
            del self._logins[next(iter(self._logins))]
        new = NewLogin(new_secret(), new_secret(), new_secret(), new_secret(), clock.now() + self._lifetime_s)
        self._logins[hash_secret(new.state)] = BegunLogin(
            hash_secret(new.secret), new.nonce, new.verifier, address, new.expires_at
        )
        return new

    def take(self, state: str, secret: str) -> BegunLogin:
        """Return the login of a state, which is used up. RefusedError unless this browser has begun it."""
        self._drop_expired()
        key = hash_secret(state)
        login = self._logins.get(key)
        if login is None:
            raise RefusedError("this login was used or has expired", hint="log in again")
        if not hmac.compare_digest(login.secret_hash, hash_secret(secret)):
            raise RefusedError(
                "another browser, or another page of this one, has begun this login", hint="log in again"
            )
        del self._logins[key]
        return login

    def _drop_expired(self) -> None:
        now = clock.now()
        while self._logins:
            state, oldest = next(iter(self._logins.items()))
            if oldest.expires_at > now:
                return
            del self._logins[state]
