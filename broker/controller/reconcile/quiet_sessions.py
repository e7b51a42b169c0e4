"""Queued sessions that a tick can pass over: neither their row nor their job has changed since an earlier tick.

A queue of 1,600 sessions then costs a tick little more than the query of Slurm. Places in the queue are no change here:
ObservedSlurm has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.schema.sessions import LIVE, SessionState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from slurm.scheduler import Job

MAX_READ_BY_ID = 1000
"""Rows that are read by their ids; more are read by their states."""


class _Quiet(NamedTuple):
    """A session at a revision, and its job, of which a tick has observed that they agree."""

    session_id: str
    revision: int
    job: Job


class QuietSessions:
    """The sessions and jobs of the last tick that need no work until one of them changes."""

    def __init__(self, registry: AsyncRegistry) -> None:
        self._registry = registry
        self._known: dict[int, _Quiet] = {}
        """By job id."""
        self._excluded: set[str] = set()

    def __bool__(self) -> bool:
        """Whether the last `read` has left out sessions."""
        return bool(self._known)

    async def read(self, jobs: Iterable[Job]) -> tuple[list[Session], list[Job]]:
        """Return the live sessions and Slurm's jobs, without the quiet sessions and their jobs."""
        revisions = await self._registry.revisions_in(LIVE)
        before, self._known = self._known, {}
        self._excluded.clear()
        others = []
        for job in jobs:
            quiet = before.get(job.id)
            if quiet is None or revisions.get(quiet.session_id) != quiet.revision or not _is_same(job, quiet.job):
                others.append(job)
            else:
                self._known[job.id] = quiet
        left_out = {quiet.session_id for quiet in self._known.values()}
        to_read = revisions.keys() - left_out
        if len(to_read) <= MAX_READ_BY_ID:
            sessions = await self._registry.by_ids(to_read)
        else:
            sessions = await self._registry.in_states(LIVE)
        return [session for session in sessions if session.state in LIVE and session.id not in left_out], others

    def exclude(self, session_id: str) -> None:
        """Do not let this tick remember the session, because its observation was not recorded."""
        self._excluded.add(session_id)

    def remember(self, sessions: Iterable[Session], own: Mapping[str, Job]) -> None:
        """Remember the sessions of this tick that can be passed over. `own` has their jobs.

        A session that the tick has changed has another revision, and is read again.
        """
        for session in sessions:
            job = own.get(session.id)
            if job is not None and session.id not in self._excluded and _is_quiet(session, job):
                self._known[job.id] = _Quiet(session.id, session.revision, job)


def _is_quiet(session: Session, job: Job) -> bool:
    """Whether only a change of row or job can require work for the session: no time does, and no other job."""
    return (
        session.state is SessionState.QUEUED
        and job.state.waits
        and not job.restarts
        and session.job.job_id == job.id
        and not session.successor
        and session.stop_at is None
        and session.pending is None
        and session.job.idle_stop_at is None
    )


def _is_same(job: Job, before: Job) -> bool:
    """Whether two observations of a waiting job differ at most in its place and its expected times."""
    return (
        job.state is before.state
        and job.reason == before.reason
        and job.comment == before.comment
        and job.restarts == before.restarts
        and job.user == before.user
        and job.name == before.name
        and job.submitted_at == before.submitted_at
    )
