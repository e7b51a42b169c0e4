"""Submit the successor of a job that will reach its time limit.

The successor is submitted while the present job runs, and waits in the queue until that job ends.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.reconcile.succession import CONTINUABLE_STATES, ask_successor, successor_due
from broker.errors import BerthError
from broker.service.lasting_states import LastingStates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.config.settings import SlurmSettings
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from slurm.scheduler import Job

log = logging.getLogger(__name__)


class Continuation:
    """Submits successors, at most one for each job. The reconciler observes them."""

    def __init__(
        self,
        *,
        settings: SlurmSettings,
        registry: AsyncRegistry,
        submitter: Submitter,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._submitter = submitter
        self._lasting = LastingStates(log)

    async def enforce(self, sessions: Iterable[Session], successors: Mapping[str, Job], now: float) -> None:
        """Request the successors that are due, and submit those again that Slurm does not have."""
        for session in sessions:
            try:
                await self._enforce(session, successors.get(session.id), now)
            except BerthError as error:  # the other sessions still get theirs
                text = f"successor not requested {session.log_name} error={error.message}"
                self._lasting.report(session.id, logging.ERROR, text, cause=error)

    async def _enforce(self, session: Session, successor: Job | None, now: float) -> None:
        due = successor_due(session, now, self._settings.successor_lead)
        lost = successor is None and _is_lost(session, now, self._settings.submit_grace)
        if not (due or lost) or self._submitter.under_way(session.id):
            return
        if due:
            session = await self._registry.update(session.id, self._ask(now))
        if session.successor and session.state in CONTINUABLE_STATES:
            self._submitter.submit_successor(session)

    def _ask(self, at: float) -> Transition:
        def decide(current: Session) -> RowChange | None:
            return (
                ask_successor(current, clock.now())
                if successor_due(current, at, self._settings.successor_lead)
                else None
            )

        return decide


def _is_lost(session: Session, now: float, grace: float) -> bool:
    """Whether the last attempt had no clear answer, and its job would have shown up by now."""
    job = session.next_job
    return job is not None and job.job_id is None and now - (job.attempted_at or job.asked_at) >= grace
