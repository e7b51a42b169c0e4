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


BLOCKED_REASONS = frozenset({"BeginTime", "Dependency", "DependencyNeverSatisfied"})
"""Reasons of jobs that could not start even at the head of the queue."""


def count_jobs_ahead(queue: Iterable[QueuedJob]) -> dict[int, int]:
    """Return, for each job that may start, the number of jobs ahead of it in its partition. These have a higher
    priority or, with the same one, a lower id, as slurmctld sorts them. Of several partitions the one with the fewest
    jobs ahead counts.
    """
    before: dict[str, int] = {}
    found: dict[int, int] = {}
    for job in sorted(queue, key=lambda job: (-job.priority, job.id)):
        if job.priority == 0 or job.reason in BLOCKED_REASONS:
            continue
        partitions = job.partitions.split(",")
        found[job.id] = min(before.get(each, 0) for each in partitions)
        for each in partitions:
            before[each] = before.get(each, 0) + 1
    return found
