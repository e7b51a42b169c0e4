"""Verify that a forward has reached the session's own sshd, before a byte of the client is sent.

Another process may have taken the session's port since its job announced it. So the gateway keeps a second connection
to the endpoint, the *guard*, on which the sshd has proved its host key. Once the forward is connected, the gateway asks
the guard for an answer. The answer shows that this sshd still runs, and so still listened when the forward arrived
(ADR 26).

An owner has few guards. The gateway waits before it connects again to a server that sends too much, or that ends its
guards at once (ADR 102).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.gateway.fair_reader import PreAuthQueue
from broker.gateway.guard import FloodError, Guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from broker.gateway.guard import EndpointAddress

MAX_GUARDS, MAX_GUARDS_PER_OWNER = 512, 16
"""Guards that stand at once, and those to the sessions of one owner; one of the owner's own makes room for another. A
forward to one session more than an owner may have guards for waits until one of them has answered."""

SHORT_LIFE_S = 1.0
"""Seconds that a guard lives at least, or the next one waits: a key exchange costs the gateway some milliseconds."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.02, 0.1
"""Seconds from the end of such a guard to the next one: doubled each time, from the first to the longest."""
FIRST_BAN_S, LONGEST_BAN_S = 2.0, 60.0
"""Seconds for which forwards to a server that has sent too much are refused: doubled each time."""
MEMORY_S = 300.0
"""Seconds without another short guard after which the earlier ones are forgotten."""
MAX_REMEMBERED = 4096
"""Endpoints that had such guards; the one that has not had any for the longest time is forgotten."""


@dataclass(slots=True)
class _Past:
    """The last ends of one endpoint's guards."""

    short: int = 0
    """Number of guards in a row that lived for a moment only."""
    floods: int = 0
    next_at: float = 0.0
    """Time from which another guard may begin."""


class EndpointVerifier:
    """The present guards, one for each endpoint, which all its forwards share."""

    def __init__(self, *, answer_timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`answer_timeout`: seconds for a guard's key exchange, for each answer of one, and for a free place."""
        self.answer_timeout = answer_timeout
        self._clock = clock
        self._guards: dict[EndpointAddress, Guard] = {}
        self._past: OrderedDict[EndpointAddress, _Past] = OrderedDict()
        self._queue = PreAuthQueue()
        self._asked: Counter[EndpointAddress] = Counter()
        """Forwards that wait for the answer of an endpoint's guard. Such a guard makes no room for another."""
        self._asked_of: Counter[str] = Counter()
        """The number of these endpoints, by owner."""
        self._freed: dict[str, asyncio.Event] = {}
        """By owner, where forwards wait: set when there is one endpoint less."""

    def __len__(self) -> int:
        return len(self._guards)

    def prepare(self, endpoint: EndpointAddress) -> Guard | None:
        """Have a guard made while the forward is being connected, unless one of the owner's would have to make room.

        FloodError if the server has sent too much lately.
        """
        if (
            endpoint in self._guards
            or sum(each.owner == endpoint.owner for each in self._guards) < MAX_GUARDS_PER_OWNER
        ):
            return self._guard(endpoint)
        return None

    async def prove(self, endpoint: EndpointAddress) -> None:
        """Return once the session's sshd has answered to something that it was asked after this call.

        HostKeyMismatchError if the server has another host key; OSError, such as TimeoutError, if no ssh server
        answers.
        """
        async with self._place(endpoint):
            stood = endpoint in self._guards
            if await self._guard(endpoint).answers(self.answer_timeout):
                return
            # Its sshd may have ended the guard that stood. If a new guard gets no answer either, the sshd is gone.
            if not stood or not await self._guard(endpoint).answers(self.answer_timeout):
                raise ConnectionResetError("the session's sshd is gone")

    def _guard(self, endpoint: EndpointAddress) -> Guard:
        """Return the endpoint's guard, made if there is none. FloodError as for `prepare`."""
        guard = self._guards.get(endpoint)
        if guard is None:
            past = self._past.get(endpoint, _Past())
            wait = max(past.next_at - self._clock(), 0.0)
            if past.floods and wait:
                raise FloodError(f"sends too much, left alone for {wait:.0f} s")
            began_at = self._clock() + wait
            guard = self._guards[endpoint] = Guard(
                endpoint, self._queue, self._forget, began_at, wait, self.answer_timeout
            )
            self._make_room(endpoint.owner)
        return guard

    @contextlib.asynccontextmanager
    async def _place(self, endpoint: EndpointAddress) -> AsyncIterator[None]:
        """Let no more endpoints of one owner be asked at once than the owner may have guards. TimeoutError if none of
        these has answered for too long.
        """
        owner = endpoint.owner
        async with asyncio.timeout(self.answer_timeout):
            while not self._asked[endpoint] and self._asked_of[owner] >= MAX_GUARDS_PER_OWNER:
                await self._freed.setdefault(owner, asyncio.Event()).wait()
        if not self._asked[endpoint]:
            self._asked_of[owner] += 1
        self._asked[endpoint] += 1
        try:
            yield
        finally:
            self._asked[endpoint] -= 1
            if not self._asked[endpoint]:
                del self._asked[endpoint]
                self._asked_of[owner] -= 1
                if not self._asked_of[owner]:
                    del self._asked_of[owner]
                if (freed := self._freed.pop(owner, None)) is not None:
                    freed.set()

    def close(self) -> None:
        """Dismiss all."""
        for guard in list(self._guards.values()):
            guard.dismiss()

    def _make_room(self, owner: str) -> None:
        """Dismiss a guard if there are too many: the oldest that no forward waits for, of the owner's or of whose there
        are most.

        The next forward that needs a dismissed guard creates a new one.
        """
        of = Counter(endpoint.owner for endpoint in self._guards)
        if of[owner] <= MAX_GUARDS_PER_OWNER:
            if len(self._guards) <= MAX_GUARDS:
                return
            if of[owner] == 1:
                owner = of.most_common(1)[0][0]
        own = [endpoint for endpoint in self._guards if endpoint.owner == owner]
        self._guards[min(own, key=lambda endpoint: self._asked[endpoint] > 0)].dismiss()

    def _forget(self, guard: Guard) -> None:
        if self._guards.get(guard.endpoint) is not guard:
            return
        del self._guards[guard.endpoint]
        now = self._clock()
        if now - guard.began_at >= SHORT_LIFE_S and not guard.flooded:
            self._past.pop(guard.endpoint, None)
            return
        past = self._past.pop(guard.endpoint, None)
        if past is None or now - past.next_at > MEMORY_S:
            past = _Past()
        if guard.flooded:
            wait = min(FIRST_BAN_S * 2**past.floods, LONGEST_BAN_S)
            past.floods += 1
        else:
            wait = min(FIRST_WAIT_S * 2**past.short, LONGEST_WAIT_S)
            past.short += 1
        past.next_at = now + wait
        self._past[guard.endpoint] = past
        while len(self._past) > MAX_REMEMBERED:
            self._past.popitem(last=False)
