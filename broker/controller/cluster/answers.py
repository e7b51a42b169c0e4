"""The last answers of Slurm about nodes, partitions and queue.

All users and the reconciler share them, and Slurm is queried only when a caller needs a newer answer.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from broker.controller import clock
from broker.single_flight import SingleFlight
from slurm.scheduler import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from slurm.nodes import Node
    from slurm.partitions import Partition
    from slurm.queue_position import QueuedJob
    from slurm.scheduler import Scheduler

T = TypeVar("T")

log = logging.getLogger(__name__)

PATIENCE_S = 2.0
"""Seconds for which a caller waits for a new answer while there is an old one."""
RETRY_S = 30.0
"""Seconds without another query after one that has failed, at most."""
FIRST_PATIENCE_S = 10.0
"""Seconds for which a caller waits for the first answer."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """An answer of Slurm's and the time of its query."""

    value: T
    at: float
    """Seconds since the epoch."""
    monotonic: float
    is_stale: bool = False
    """Whether Slurm has not answered since."""


@dataclass(frozen=True, slots=True)
class _Failure:
    message: str
    monotonic: float


class CachedQuery(Generic[T]):
    """One query to Slurm with its last answer. It runs once at a time, and all callers share its result."""

    def __init__(self, name: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._name = name
        self._ask = ask
        self._running = SingleFlight[str, "Answer[T]"]()
        self._last: Answer[T] | None = None
        self._failure: _Failure | None = None

    async def fresh_answer(self, max_age: float) -> Answer[T]:
        """Return an answer to a query of the last `max_age` seconds; query if there is none.

        NoAnswer if Slurm does not answer, also without a query if one has failed within this time, or within RETRY_S.
        """
        now = clock.monotonic()
        if self._last is not None and now - self._last.monotonic < max_age:
            return self._last
        if self._failure is not None and now - self._failure.monotonic < min(max_age, RETRY_S):
            raise NoAnswer(self._failure.message)
        return await asyncio.shield(self._running.join("", self._query))

    async def latest_answer(self, max_age: float) -> Answer[T]:
        """Return an answer as `fresh_answer` does, or else the last one, after PATIENCE_S at most.

        NoAnswer if there is none after FIRST_PATIENCE_S. A query that takes longer continues, for the callers to come.
        """
        last = self._last
        patience = FIRST_PATIENCE_S if last is None else PATIENCE_S
        try:
            async with asyncio.timeout(patience):
                return await self.fresh_answer(max_age)
        except (NoAnswer, TimeoutError) as error:
            if last is None:
                raise NoAnswer(str(error) or f"no answer in {patience:g} s") from error
            return replace(last, is_stale=True)

    async def close(self) -> None:
        """Cancel the query."""
        await self._running.close()

    async def _query(self) -> Answer[T]:
        began, now = clock.monotonic(), clock.now()
        try:
            self._last = Answer(await self._ask(), now, began)
        except NoAnswer as error:
            log.warning("no answer about the cluster query=%s error=%s", self._name, error)
            self._failure = _Failure(str(error), clock.monotonic())
            raise
        self._failure = None
        return self._last


class ClusterAnswers:
    """The shared answers of one scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.nodes: CachedQuery[Mapping[str, Node]] = CachedQuery("nodes", scheduler.nodes)
        self.partitions: CachedQuery[Mapping[str, Partition]] = CachedQuery("partitions", scheduler.partitions)
        self.queue: CachedQuery[list[QueuedJob]] = CachedQuery("queue", scheduler.queue)
        self.private_data: CachedQuery[frozenset[str]] = CachedQuery("PrivateData", scheduler.private_data)

    async def close(self) -> None:
        """Cancel all queries."""
        await asyncio.gather(self.nodes.close(), self.partitions.close(), self.queue.close(), self.private_data.close())
