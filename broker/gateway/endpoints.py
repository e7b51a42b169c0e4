"""Where sessions listened last: it bridges a controller that is away.

What is remembered is used only then. It may be out of date, and so may the permission: for `stale_seconds` somebody
who may not connect any more still can, if the session still lets them in. That whoever answers there is the session
is proved each time (guard), so that an endpoint of the past leads nowhere.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from broker.errors import BerthError, ControllerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.schema import ResolveAnswer

REMEMBERED = 4096
"""Answers that are kept; the oldest goes first."""


class _Known(NamedTuple):
    answer: ResolveAnswer
    at: float


class Endpoints:
    """Asks `ask(user, target)`, and answers from memory while there is no controller to ask."""

    def __init__(
        self,
        ask: Callable[[str, str], Awaitable[ResolveAnswer]],
        *,
        stale_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._stale = stale_seconds
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()

    async def resolve(self, user: str, target: str) -> ResolveAnswer:
        """Where the session listens that `user` means by `target`; raises what the controller refuses with."""
        key = (user, target)
        try:
            answer = await self._ask(user, target)
        except ControllerUnavailableError:
            known = self._known.get(key)
            if known is None or self._clock() - known.at > self._stale:
                raise
            return known.answer
        except BerthError:
            self._known.pop(key, None)
            raise
        self._known[key] = _Known(answer, self._clock())
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return answer
