"""The moving sessions whose jobs can be queried by id.

A query by id shows one job, and no other job of the session. So it serves sessions that can have no other one: the job
is known, and none was submitted after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.schema.sessions import LIVE, MOVING

if TYPE_CHECKING:
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session

MAX_BY_ID = 50
"""Jobs of one query by ids. Each takes slurmctld a request of its own: 0.3 ms, and squeue a process: 10 ms."""
MOVING_LIVE = LIVE & MOVING


class MovingSessions(NamedTuple):
    """Sessions to query by the ids of their jobs, in one reading of the registry."""

    sessions: list[Session]
    is_all: bool
    """Whether no other session with a job moves."""

    @classmethod
    async def read(cls, registry: AsyncRegistry) -> MovingSessions:
        """Return the moving sessions, those with the newest jobs first."""
        rows = await registry.newest_in_states(MOVING_LIVE, MAX_BY_ID + 1)
        known = [session for session in rows[:MAX_BY_ID] if has_one_known_job(session)]
        return cls(known, len(known) == len(rows))

    @property
    def job_ids(self) -> list[int]:
        """Return the ids of the sessions' jobs."""
        return [session.job.job_id for session in self.sessions if session.job.job_id is not None]


def has_one_known_job(session: Session) -> bool:
    """Whether the id of the session's job is recorded, and the session can have no other job."""
    no_other = session.submissions == session.submission and not session.successor and session.held_job_id is None
    return session.job.job_id is not None and no_other


def moves_otherwise(session: Session) -> bool:
    """Whether the session needs ticks for another reason: its volumes or data change, or it gets other resources."""
    return session.state not in MOVING_LIVE and (
        session.state in MOVING or session.pending is not None or session.resizing
    )
