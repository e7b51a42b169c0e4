"""Positions of jobs among those that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class QueuedJob(NamedTuple):
    """A job that waits."""

    id: int
    priority: int
    """Slurm's own; 0 for one that is held."""
    partitions: str
    """One, or several separated by commas, in any of which it may run."""
    reason: str
    """Slurm's word for the reason of the wait."""
    user: str


BLOCKED_REASONS = frozenset({"BeginTime", "Dependency", "DependencyNeverSatisfied"})
"""Reasons of jobs that could not start even at the head of the queue."""


def startable_jobs(queue: Iterable[QueuedJob]) -> list[QueuedJob]:
    """Return the waiting jobs that could start at the head of the queue, as slurmctld sorts them: by priority, then by
    id.
    """
    ordered = sorted(queue, key=lambda job: (-job.priority, job.id))
    return [job for job in ordered if job.priority and job.reason not in BLOCKED_REASONS]


def count_jobs_ahead(queue: Iterable[QueuedJob]) -> dict[int, int]:
    """Return, for each job that may start, the number of jobs ahead of it in its partition. Of several partitions the
    one with the fewest jobs ahead counts.
    """
    before: dict[str, int] = {}
    found: dict[int, int] = {}
    for job in startable_jobs(queue):
        if "," not in job.partitions:  # most jobs
            found[job.id] = place = before.get(job.partitions, 0)
            before[job.partitions] = place + 1
            continue
        partitions = job.partitions.split(",")
        found[job.id] = min(before.get(each, 0) for each in partitions)
        for each in partitions:
            before[each] = before.get(each, 0) + 1
    return found
