"""What the broker asks of Slurm: two questions and three orders, behind a Protocol.

No answer is not an answer: a call that cannot get one raises NoAnswer and says nothing about any job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slurm.state import JobState


class NoAnswer(Exception):  # noqa: N818 - it reads as what it is: Slurm gave no answer
    """slurmctld, slurmdbd or MUNGE did not answer in time, or what answered could not be understood."""


class Refused(Exception):  # noqa: N818 - Slurm did answer, and the answer is no
    """Slurm refuses the order, such as cancelling a job of somebody else, or raising a time limit, without being an
    operator.
    """


@dataclass(frozen=True, slots=True)
class Job:
    """One job as slurmctld shows it.

    Times are seconds since the epoch; None where Slurm says none, unknown or N/A.
    """

    id: int
    name: str
    user: str
    state: JobState
    reason: str
    """Slurm's own word for why it waits or ended, such as `Resources`; empty for `None`."""
    comment: str
    node: str
    """Where it runs or ran (a node list for several); empty while it waits."""
    restarts: int
    """How often Slurm has requeued it."""
    submitted_at: float | None
    started_at: float | None
    """When it started; for a pending job when Slurm expects to start it."""
    ends_at: float | None
    """When its time limit ends it, or when it ended."""
    ahead: int | None = None
    """How many jobs that wait have a higher rank in its partition; None unless it waits and may start. As far as
    Slurm shows them to us: with PrivateData=jobs, that takes an operator."""


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """How a job ended, from accounting.

    Ids come again: after some 67 million jobs (MaxJobId), and when a slurmctld that was killed has lost its last
    seconds. Compare the time of submission too.
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
    """Who cancelled it, if somebody did."""


class Scheduler(Protocol):
    """A way to reach one Slurm cluster.

    Every method may raise NoAnswer, for a Slurm that does not answer. The next call tries anew.
    """

    @property
    def name(self) -> str:
        """`pyslurm` or `commands`: shown by `berth doctor`."""

    async def jobs(self, name_prefix: str) -> list[Job]:
        """Return every job whose name starts with `name_prefix` and that slurmctld still knows.

        Live ones and, for MinJobAge seconds, ended ones; those of all users. One query whatever the number of
        jobs. A job missing from the list is not known any more. A job array is one job with the array's id
        and, for each task that has been started, one with the task's own.
        """

    async def finished(self, job_ids: Iterable[int]) -> Mapping[int, FinishedJob]:
        """Tell how these jobs ended, for those that slurmdbd knows to have ended. One query.

        A cluster without accounting knows of none, which is an answer.
        """

    async def cancel(self, job_id: int) -> None:
        """Ask Slurm to end the job; return when slurmctld has taken the order.

        A job that has ended already, or that Slurm does not know, is fine. Raises Refused if Slurm says no.
        """

    async def set_time_limit(self, job_id: int, minutes: int) -> None:
        """Let the job run for so many minutes from its start. Raises Refused if Slurm says no: raising a limit takes an
        operator, and no limit of the partition may be overstepped.
        """

    async def start_now(self, job_id: int) -> None:
        """Let a waiting job start as soon as it can, although its start was put off, as that of a requeued one is by
        two minutes. Raises Refused if Slurm says no, as of a job that has started.
        """

    async def version(self) -> str:
        """Slurm's version, such as `26.05.5`, as slurmctld answers it."""

    async def close(self) -> None:
        """Give up what it holds; no call may follow."""
