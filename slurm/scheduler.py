"""The Protocol of a scheduler: the questions and the three orders of the broker to Slurm.

A call without an answer raises NoAnswer, and proves nothing about any job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slurm.nodes import Node
    from slurm.partitions import Partition
    from slurm.queue_position import QueuedJob
    from slurm.state import JobState


class NoAnswer(Exception):  # noqa: N818 - it reads as what it is: Slurm gave no answer
    """slurmctld, slurmdbd or MUNGE did not answer in time, or the answer was invalid."""


class Refused(Exception):  # noqa: N818 - Slurm did answer, and the answer is no
    """Slurm has refused the order. Only an operator may cancel another user's job or raise a time limit."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job as slurmctld shows it.

    Times are seconds since the epoch; None for an unknown time.
    """

    id: int
    name: str
    user: str
    state: JobState
    reason: str
    """Slurm's word for the reason of a wait or an end, such as `Resources`; empty for `None`."""
    comment: str
    node: str
    """The node, or a node list, on which it runs or ran; empty while it waits."""
    restarts: int
    """Number of times that Slurm has requeued it."""
    submitted_at: float | None
    started_at: float | None
    """Time of its start; the expected one for a pending job."""
    ends_at: float | None
    """Time at which its time limit ends it, or of its end."""
    ahead: int | None = None
    """Number of waiting jobs with a higher rank in its partition; None unless it waits and may start. It counts the
    jobs that Slurm shows: with PrivateData=jobs, only an operator sees all."""


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """The end of a job, from accounting.

    Ids are used again: after some 67 million jobs (MaxJobId), and after a killed slurmctld has lost its last seconds.
    So compare the time of submission too.
    """

    id: int
    name: str
    user: str
    state: JobState
    exit_code: int
    signal: int
    submitted_at: float | None
    ended_at: float | None
    cancelled_by: str = ""
    """The user who cancelled it; empty if it was not cancelled."""


class Scheduler(Protocol):
    """A connection to one Slurm cluster.

    Every method may raise NoAnswer if Slurm does not answer. The next call tries again.
    """

    @property
    def name(self) -> str:
        """`pyslurm` or `commands`: `berth doctor` shows it."""

    async def jobs(self, name_prefix: str) -> list[Job]:
        """Return every job whose name starts with `name_prefix` and that slurmctld still knows, of all users.

        These are the live ones and, for MinJobAge seconds, ended ones. One query for any number of jobs. slurmctld does
        not know a job any more that is missing from the list. A job array is one job with the array's id and, for each
        started task, one job with the task's own id.
        """

    async def jobs_by_id(self, job_ids: Iterable[int]) -> list[Job]:
        """Return these jobs as far as slurmctld knows them, of all users and with any name.

        One request to slurmctld for each job, whose cost does not depend on the number of all jobs. `ahead` is None.
        """

    async def queue(self) -> list[QueuedJob]:
        """Return all jobs that wait, of all users, held ones too. With PrivateData=jobs, only an operator sees all. One
        query. A job array is one job.
        """

    async def finished_jobs(self, job_ids: Iterable[int]) -> Mapping[int, FinishedJob]:
        """Return the ends of these jobs, for those that slurmdbd lists as ended. One query.

        A cluster without accounting returns none, which is a valid answer.
        """

    async def nodes(self) -> Mapping[str, Node]:
        """Return all nodes by name, also those of hidden partitions. One query for nodes, and one for partitions."""

    async def partitions(self) -> Mapping[str, Partition]:
        """Return all partitions by name, hidden ones too. One query."""

    async def cancel(self, job_id: int) -> None:
        """Ask Slurm to end the job, and return when slurmctld has accepted the order.

        Return also if the job has ended or is unknown. Raises Refused.
        """

    async def set_time_limit(self, job_id: int, minutes: int) -> None:
        """Set the job's time limit in minutes from its start. Raises Refused: only an operator may raise a limit, and
        none may exceed the partition's limit.
        """

    async def start_now(self, job_id: int) -> None:
        """Let a waiting job start as soon as possible although its start was delayed, as that of a requeued job is by
        two minutes. Raises Refused, for example for a job that has started.
        """

    async def private_data(self) -> frozenset[str]:
        """Return the things that Slurm hides from users who are no operators, such as `jobs`, `nodes`, `partitions`:
        PrivateData of slurm.conf(5).
        """

    async def stores_comments(self) -> bool:
        """Return whether accounting stores the comments of jobs (AccountingStoreFlags of slurm.conf(5)).

        Whom it shows them to is a setting of slurmdbd.conf(5), which slurmctld does not know.
        """

    async def version(self) -> str:
        """Return Slurm's version, such as `26.05.5`, from slurmctld."""

    async def close(self) -> None:
        """Release all resources. No call may follow."""
