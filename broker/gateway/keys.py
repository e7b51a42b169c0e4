"""Which keys may log in to the gateway: the controller's answers, remembered for a moment.

A burst of connections of one user asks once; a controller that is down is bridged with its last answer.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import BerthError, InvalidInputError
from broker.keys import PublicKey
from broker.names import USER_PATTERN
from broker.schema import GatewayKeys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.gateway.memory import Memory

_USER = re.compile(USER_PATTERN)

_REMEMBERED_USERS = 4096
"""Unknown names are remembered too, and anybody can make those up."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Whose keys, and whether the controller stands behind them now."""

    blobs: frozenset[bytes]
    confirmed: bool
    """False: the controller did not answer, and `blobs` is its last answer, or nothing."""
    notices: tuple[str, ...] = ()
    """What to tell them when they have logged in, one line each."""


@dataclass(slots=True)
class _Known:
    blobs: frozenset[bytes]
    notices: tuple[str, ...]
    at: float


class AdmittedKeys:
    """Asks `ask(user)` at most once per `fresh_seconds` and user.

    While `ask` fails, the last answer holds, from memory. A user whom nobody knows is like one without keys.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[GatewayKeys]],
        memory: Memory[GatewayKeys],
        *,
        fresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._memory = memory
        self._fresh = fresh_seconds
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Admission]] = {}

    async def of(self, user: str) -> Admission:
        """Never raises for want of an answer; see `Admission.confirmed`."""
        if not _USER.fullmatch(user):
            return Admission(frozenset(), confirmed=True)
        known = self._known.get(user)
        if known is not None and self._clock() - known.at < self._fresh:
            return Admission(known.blobs, confirmed=True, notices=known.notices)
        task = self._asking.get(user)
        if task is None:
            task = asyncio.create_task(self._refresh(user))
            self._asking[user] = task
            task.add_done_callback(lambda _: self._asking.pop(user, None))
        # Shielded: the one who asked first may hang up while others wait for the same answer.
        return await asyncio.shield(task)

    async def _refresh(self, user: str) -> Admission:
        try:
            answer = await self._ask(user)
        except BerthError:
            last = self._memory.recall((user,))
            return Admission(frozenset(_blobs(last.keys)) if last else frozenset(), confirmed=False)
        if answer.keys:
            self._memory.keep((user,), GatewayKeys(user=user, keys=answer.keys))
        else:
            self._memory.forget((user,))
        blobs, notices = frozenset(_blobs(answer.keys)), tuple(answer.notices)
        self._known[user] = _Known(blobs, notices, self._clock())
        self._known.move_to_end(user)
        while len(self._known) > _REMEMBERED_USERS:
            self._known.popitem(last=False)
        return Admission(blobs, confirmed=True, notices=notices)


def _blobs(lines: list[str]) -> set[bytes]:
    blobs = set()
    for line in lines:
        try:
            blobs.add(PublicKey.parse(line).blob)
        except InvalidInputError:
            continue  # the controller validated it; what is not a plain key to us opens nothing
    return blobs
