"""Record what an answer of Slurm changes, for many sessions in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.controller.reconcile.observation import observation, observe
from broker.controller.registry.registry import changes
from broker.errors import BerthError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from broker.controller.reconcile.observation import Matched
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import Transition
    from slurm.nodes import Node
    from slurm.scheduler import Job

CHANGES_AT_ONCE = 100
"""Sessions that one transaction changes. Other writers wait meanwhile: about 60 ms on SQLite (measured)."""


class SessionChange(NamedTuple):
    """A session before a change, as it was observed, and after it, as the registry has it."""

    observed: Session
    current: Session


class _Observation(NamedTuple):
    """A session, its job and its successor in one answer of Slurm."""

    session: Session
    job: Job
    successor: Job | None
    asked_at: float
    nodes: Mapping[str, Node]

    @property
    def transition(self) -> Transition:
        return observe(*self)

    def follow(self, current: Session) -> _Observation | None:
        """Return the observation of the successor if it has become the job of the session; else None."""
        is_job = self.successor is not None and current.job.job_id == self.successor.id
        if self.successor is None or not is_job or current.submission == self.session.submission:
            return None
        return self._replace(session=current, job=self.successor, successor=None)


class ObservationRecorder:
    """Records the changes of one answer of Slurm after the other."""

    def __init__(self, registry: AsyncRegistry, on_failure: Callable[[Session, BerthError], None]) -> None:
        """`on_failure` gets each session that could not be recorded. The others are recorded nevertheless."""
        self._registry = registry
        self._on_failure = on_failure

    async def record(
        self, sessions: Iterable[Session], found: Matched, asked_at: float, nodes: Mapping[str, Node]
    ) -> AsyncIterator[SessionChange]:
        """Record what the answer of the time `asked_at` changes, and yield each changed session.

        A session is recorded before it is yielded. One whose successor has become its job may come twice.
        """
        waiting = [
            _Observation(session, job, found.successors.get(session.id), asked_at, nodes)
            for session in sessions
            if (job := found.own.get(session.id)) is not None
        ]
        while waiting:
            news = [each for each in waiting if self._is_news(each)]
            waiting = []
            for at in range(0, len(news), CHANGES_AT_ONCE):
                for each, current in await self._record_some(news[at : at + CHANGES_AT_ONCE]):
                    yield SessionChange(each.session, current)
                    if (successor := each.follow(current)) is not None:
                        waiting.append(successor)

    def _is_news(self, each: _Observation) -> bool:
        """Whether the answer changes the session."""
        try:
            return changes(each.session, observation(*each))
        except BerthError as error:
            self._on_failure(each.session, error)
            return False

    async def _record_some(self, news: Sequence[_Observation]) -> list[tuple[_Observation, Session]]:
        recorded: dict[str, Session] = {}
        if len(news) > 1:
            try:
                recorded = await self._registry.update_all({each.session.id: each.transition for each in news})
            except BerthError:
                recorded = {}  # nothing was recorded: one by one, so that one session's failure is its own
        done = []
        for each in news:
            current = recorded.get(each.session.id) or await self._record_one(each)
            if current is not None:
                done.append((each, current))
        return done

    async def _record_one(self, each: _Observation) -> Session | None:
        try:
            return await self._registry.update(each.session.id, each.transition)
        except BerthError as error:
            self._on_failure(each.session, error)
            return None
