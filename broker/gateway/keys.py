"""A short-lived cache of the keys and certificates that may log in to the gateway.

A burst of connections of one user causes one query. While the controller is down, its last answer is used.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from broker.errors import BerthError, InvalidInputError
from broker.names import USER_PATTERN
from broker.schema.login import GatewayKeys
from broker.single_flight import SingleFlight
from broker.ssh.keys import PublicKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from broker.gateway.response_cache import ResponseCache

_USER = re.compile(USER_PATTERN)

_MAX_USERS = 4096
"""Unknown names are remembered too, and anybody can make those up."""


@dataclass(frozen=True, slots=True)
class AuthorizedCredentials:
    """The credentials that let a user in, and whether the controller confirms them now. Keys are RFC 4253 encodings."""

    blobs: frozenset[bytes] = frozenset()
    """Keys that do by themselves."""
    authorities: frozenset[bytes] = frozenset()
    """Keys whose certificates do."""
    revoked: frozenset[bytes] = frozenset()
    """Keys whose certificates do not."""
    notices: Mapping[str, str] = field(default_factory=dict)
    """The message after a login to a session, by the session's name; by the empty name, that of a login without one."""
    confirmed: bool = True
    """False: the controller did not answer, and this is its last answer, or nothing."""

    @classmethod
    def of(cls, answer: GatewayKeys) -> AuthorizedCredentials:
        return cls(_blobs(answer.keys), _blobs(answer.authorities), _blobs(answer.revoked), answer.session_notices)


class CredentialsCache:
    """Asks `ask(user)` at most once per `fresh_seconds` and user.

    While `ask` fails, the last response is used. An unknown user is like a user without keys.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[GatewayKeys]],
        memory: ResponseCache[GatewayKeys],
        *,
        fresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._memory = memory
        self._fresh = fresh_seconds
        self._clock = clock
        self._known: OrderedDict[str, tuple[AuthorizedCredentials, float]] = OrderedDict()
        self._asking = SingleFlight[str, AuthorizedCredentials]()

    async def of(self, user: str) -> AuthorizedCredentials:
        """Return the credentials, also without an answer; see `AuthorizedCredentials.confirmed`."""
        if not _USER.fullmatch(user):
            return AuthorizedCredentials()
        known, at = self._known.get(user, (None, 0.0))
        if known is not None and self._clock() - at < self._fresh:
            return known
        # Shielded: the one who asked first may close the connection while others wait for the same answer.
        return await asyncio.shield(self._asking.join(user, lambda: self._refresh(user)))

    async def _refresh(self, user: str) -> AuthorizedCredentials:
        try:
            answer = await self._ask(user)
        except BerthError:
            last = self._memory.recall((user,)) or GatewayKeys(user=user, keys=[])
            return replace(AuthorizedCredentials.of(last), confirmed=False)
        if answer.keys or answer.authorities:
            self._memory.keep((user,), answer.model_copy(update={"session_notices": {}}))
        else:
            self._memory.forget((user,))
        credentials = AuthorizedCredentials.of(answer)
        self._known[user] = (credentials, self._clock())
        self._known.move_to_end(user)
        while len(self._known) > _MAX_USERS:
            self._known.popitem(last=False)
        return credentials


def _blobs(lines: list[str]) -> frozenset[bytes]:
    blobs = set()
    for line in lines:
        try:
            blobs.add(PublicKey.parse(line).blob)
        except InvalidInputError:
            continue  # the controller validated it; what is not a plain key to us opens nothing
    return frozenset(blobs)
