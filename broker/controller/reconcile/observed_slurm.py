"""The last observation of Slurm, as far as the views of sessions need it and the registry does not record it.

Queue places change with every job that leaves the queue. They are kept in memory, and compared only for the sessions of
users who watch them (ADR 138).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.controller.reconcile.job_comment import JOB_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.controller.open_connections import OpenConnections
    from broker.controller.registry.models import Session
    from broker.controller.wakeup import ChangeNotifier
    from broker.schema.sessions import SessionView
    from slurm.scheduler import Job, NoAnswer

log = logging.getLogger(__name__)


PLACE_INTERVAL_S = 5.0
"""Seconds between two notifications of places that have moved. One job that leaves moves all places behind it."""


class ObservedSlurm:
    """The places of waiting jobs in Slurm's last answer, and the age of that answer."""

    def __init__(self, changes: ChangeNotifier, connections: OpenConnections) -> None:
        self._changes = changes
        self._connections = connections
        self._waiting: dict[int, Job] = {}
        """The waiting jobs, by id."""
        self._notified: dict[int, Job] = {}
        self._notified_at = 0.0
        """The waiting jobs of the last notification, and its time."""
        self.stale_since: float | None = None
        """Set while Slurm does not answer."""

    def view(self, session: Session) -> SessionView:
        """Return the session as the API shows it to its owner."""
        successor = self._waiting.get(session.next_job_id or 0)
        reason = "" if successor is None else successor.reason
        job = self._waiting.get(session.job.job_id or 0)
        return session.view(
            self.stale_since,
            ahead=None if job is None else job.ahead,
            expected_start_at=None if job is None else job.started_at,
            next_job_reason=reason,
            clients=self._connections.clients(session) if session.endpoint else [],
        )

    def record_failure(self, asked_at: float, error: NoAnswer) -> None:
        """Record that the query of that time has failed."""
        if self.stale_since is None:
            self.stale_since = asked_at
            log.warning("Slurm does not answer: %s", error)
            self._changes.announce_all()

    def record(self, jobs: Iterable[Job], asked_at: float) -> None:
        """Record Slurm's answer to the query of that time: the jobs of all sessions."""
        self._connections.expire(asked_at)
        self._waiting = {job.id: job for job in jobs if job.state.waits}
        if self.stale_since is not None:
            log.info("Slurm answers again after %.0f s", asked_at - self.stale_since)
            self.stale_since = None
            self._changes.announce_all()
        if not 0 <= asked_at - self._notified_at < PLACE_INTERVAL_S:
            self._notify()
            self._notified, self._notified_at = self._waiting, asked_at

    def record_some(self, jobs: Iterable[Job]) -> None:
        """Record Slurm's answer to a query for some jobs by id. It has no places: those that still wait keep theirs."""
        for job in jobs:
            if not job.state.waits:
                self._waiting.pop(job.id, None)

    def _notify(self) -> None:
        """Notify those who follow a session whose place has moved."""
        for job in self._waiting.values():
            session_id = job.name.removeprefix(JOB_PREFIX)
            if self._changes.is_followed(session_id, job.user) and _has_moved(job, self._notified.get(job.id)):
                self._changes.announce(session_id, job.user)


def _has_moved(job: Job, before: Job | None) -> bool:
    return before is None or (job.ahead, job.started_at, job.reason) != (before.ahead, before.started_at, before.reason)
