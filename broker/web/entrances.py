"""Codes that lead a browser from the portal to the origin of a service.

A code is for one use, for a short time, and for the browser that has the entry cookie of that origin. So the
code of another user's login opens nothing in this browser.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import RefusedError
from broker.web.recently_ended import RecentlyEnded

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.schema.web import EndedVisits, VisitAnswer

CODE_LIFETIME_S = 30.0
MAX_CODES_PER_LOGIN = 10
"""Codes of one delegation at once; a further one replaces the oldest."""
_RANDOM_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Entrance:
    visit: VisitAnswer
    entry: str
    ends_at: float


class Entrances:
    """The codes that were given and not used, in memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entrances: dict[str, _Entrance] = {}
        """By the digest of the code, oldest first."""
        self._recently_ended = RecentlyEnded(clock)

    def admit(self, visit: VisitAnswer, entry: str) -> str:
        """Return a code with which the browser whose entry cookie has the SHA-256 `entry` may begin the visit.

        RefusedError if the visit has ended while the controller's answer was on its way.
        """
        if visit in self._recently_ended:
            raise RefusedError("this browser was logged out meanwhile", hint="log in again")
        self._drop_ended()
        same_login = [code for code, each in self._entrances.items() if each.visit.delegation_id == visit.delegation_id]
        if len(same_login) >= MAX_CODES_PER_LOGIN:
            del self._entrances[same_login[0]]
        code = secrets.token_urlsafe(_RANDOM_BYTES)
        self._entrances[_digest(code)] = _Entrance(visit, entry, self._clock() + CODE_LIFETIME_S)
        return code

    def enter(self, host: str, code: str, cookie: str) -> VisitAnswer:
        """Return the visit of a code, which is used up. RefusedError unless host and entry cookie are the code's."""
        entrance = self._entrances.pop(_digest(code), None)
        if entrance is None or entrance.ends_at < self._clock() or entrance.visit.host != host:
            raise RefusedError("this way into the service was used or has expired", hint="open the service again")
        if not hmac.compare_digest(_digest(cookie), entrance.entry):
            raise RefusedError("this way into the service is for another browser", hint="open the service again")
        return entrance.visit

    def end(self, ended: EndedVisits) -> None:
        """Forget the codes of these delegations and visits, and give out no more."""
        self._recently_ended.add(ended)
        delegations, visits = set(ended.delegation_ids), set(ended.visit_ids)
        self._entrances = {
            code: each
            for code, each in self._entrances.items()
            if each.visit.delegation_id not in delegations and each.visit.id not in visits
        }

    def _drop_ended(self) -> None:
        now = self._clock()
        self._entrances = {code: each for code, each in self._entrances.items() if each.ends_at >= now}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
