"""Submit the next job of a session whose job must end.

It is submitted while the present job still runs, and waits behind it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from broker.controller.reconcile.succession import CARRIED, successor_due
from broker.errors import BerthError

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
    """Submits successors, each at most once in a submission. The reconciler observes what becomes of them."""

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

    async def see_to(self, sessions: Iterable[Session], heirs: Mapping[str, Job], now: float) -> None:
        """Ask for the successors whose time has come, and again for those that Slurm has not got."""
        for session in sessions:
            try:
                await self._see_to(session, heirs.get(session.id), now)
            except BerthError:  # one session's trouble is not the others'
                log.exception("no successor could be asked for %s", session.id)

    async def _see_to(self, session: Session, heir: Job | None, now: float) -> None:
        due = successor_due(session, now, self._settings.successor_lead)
        lost = heir is None and _is_lost(session, now, self._settings.submit_grace)
        if not (due or lost) or self._submitter.under_way(session.id):
            return
        if due:
            session = await self._registry.update(session.id, self._ask(now))
        if session.successor and session.state in CARRIED:
            self._submitter.submit_successor(session)

    def _ask(self, at: float) -> Transition:
        def decide(now: Session) -> RowChange | None:
            if not successor_due(now, at, self._settings.successor_lead):
                return None
            number = now.submissions + 1
            return {
                "successor": number,
                "submissions": number,
                "successor_job": None,
                "successor_at": time.time(),
            }, None

        return decide


def _is_lost(session: Session, now: float, grace: float) -> bool:
    """Whether the last try got no clear answer, and a job of it would have shown up by now."""
    asked_at = session.successor_at
    return session.successor != 0 and session.successor_job is None and asked_at is not None and now - asked_at >= grace
