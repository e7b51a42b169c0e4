"""A Slurm in memory, and ones that misbehave; tests/contract/test_scheduler.py holds it against the real thing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slurm.node_gres import NodeGres
from slurm.node_state import NodeCondition
from slurm.nodes import Node
from slurm.partitions import Partition
from slurm.queue_position import QueuedJob, count_jobs_ahead
from slurm.scheduler import FinishedJob, Job, NoAnswer, Refused
from slurm.state import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


WEEK_S = 7 * 86400
WORDS = {
    NodeCondition.UP: "IDLE",
    NodeCondition.DRAINING: "IDLE+DRAIN",
    NodeCondition.NOT_RESPONDING: "IDLE+NOT_RESPONDING",
    NodeCondition.DOWN: "DOWN",
}


def idle_node(name: str) -> Node:
    """A node of the lab on which no job runs."""
    gres = (NodeGres("gpu", "intel", 2, 0), NodeGres("shard", "intel", 8, 0, shares=((0, 4), (0, 4))))
    parts = ("gpu", "urgent")
    return Node(name, NodeCondition.UP, state="IDLE", partitions=parts, cpus=8, memory_mib=16000, gres=gres)


class FakeScheduler:
    """One cluster. Nothing happens by itself: tests submit, start, end and forget jobs.

    It asks as an operator, or as `user`, who may then cancel only jobs of their own. `asked` keeps each question
    and order in turn, such as `jobs berth-` and `cancel 7`.
    """

    name = "fake"
    stored = False
    """Whether accounting stores comments."""
    private: frozenset[str] = frozenset()
    """Things that are hidden from users."""

    def __init__(self, *, now: Callable[[], float] = time.time, user: str | None = None) -> None:
        self.asked: list[str] = []
        self._now = now
        self._user = user
        self._jobs: dict[int, Job] = {}
        self._accounting: dict[int, FinishedJob] = {}
        self._limits: dict[int, float] = {}
        self._nodes: dict[str, Node] = {name: idle_node(name) for name in ("c1", "c2", "c3")}
        self._partitions = {
            name: Partition(name, "UP", is_default=name == "gpu", max_time_s=WEEK_S, nodes=3)
            for name in ("gpu", "urgent")
        }
        self._uses: dict[int, tuple[str, dict[str, Any]]] = {}
        self._last_id = 0

    # What tests do to the cluster.

    def submit(
        self, name: str, *, user: str = "alice", comment: str = "", held: bool = False, minutes: int = 60
    ) -> int:
        """A job enters the queue; `minutes` is its time limit."""
        self._last_id += 1
        self._limits[self._last_id] = minutes * 60.0
        self._jobs[self._last_id] = Job(
            id=self._last_id,
            name=name,
            user=user,
            state=JobState.PENDING,
            reason="JobHeldUser" if held else "",
            comment=comment,
            node="",
            restarts=0,
            submitted_at=self._now(),
            started_at=None,
            ends_at=None,
        )
        return self._last_id

    def refuse(self, name: str, *, user: str = "alice", comment: str = "") -> int:
        """sbatch is refused; slurmctld shows what is left of the job until `forget`, accounting never."""
        job_id = self.submit(name, user=user, comment=comment)
        now = self._now()
        self.change(job_id, state=JobState.FAILED, reason="BadConstraints", started_at=now, ends_at=now)
        return job_id

    def start(self, job_id: int, node: str = "c1") -> None:
        now = self._now()
        self.change(
            job_id, state=JobState.RUNNING, reason="", node=node, started_at=now, ends_at=now + self._limits[job_id]
        )

    def end(
        self,
        job_id: int,
        state: JobState = JobState.COMPLETED,
        *,
        exit_code: int = 0,
        signal: int = 0,
        cancelled_by: str = "",
    ) -> None:
        """The job is over; slurmctld shows it until `forget`, accounting for ever."""
        now = self._now()
        job = self.change(job_id, state=state, ends_at=now)
        self._accounting[job_id] = FinishedJob(
            id=job_id,
            name=job.name,
            user=job.user,
            state=state,
            exit_code=exit_code,
            signal=signal,
            submitted_at=job.submitted_at,
            ended_at=now,
            cancelled_by=cancelled_by,
        )

    def requeue(self, job_id: int) -> None:
        """The job waits again under its old id; Slurm lets it wait for two minutes."""
        job = self._jobs[job_id]
        self._accounting.pop(job_id, None)
        now = self._now()
        waiting = {"state": JobState.PENDING, "reason": "BeginTime", "node": "", "restarts": job.restarts + 1}
        self.change(job_id, **waiting, submitted_at=now, started_at=now + 121, ends_at=None)

    def set_node(self, name: str, condition: NodeCondition, reason: str = "") -> None:
        """Slurm shows the node so; its jobs stay as they are."""
        self.change_node(name, condition=condition, reason=reason, state=WORDS[condition])

    def change_node(self, name: str, **fields: Any) -> None:  # noqa: ANN401 - any field of Node
        """Set any fields of a node; a new node if there is none of that name."""
        self._nodes[name] = replace(self._nodes.get(name) or idle_node(name), **fields)

    def use_node(self, job_id: int, name: str, **fields: Any) -> None:  # noqa: ANN401 - any field of Node
        """A node has these fields until the job ends."""
        self._uses[job_id] = name, fields

    def change_partition(self, name: str, **fields: Any) -> None:  # noqa: ANN401 - any field of Partition
        """Set any fields of a partition; a new one if there is none of that name."""
        self._partitions[name] = replace(self._partitions.get(name) or Partition(name, "UP"), **fields)

    def forget(self, job_id: int) -> None:
        """MinJobAge is over: slurmctld does not know the job any more."""
        del self._jobs[job_id]

    def change(self, job_id: int, **fields: Any) -> Job:  # noqa: ANN401 - any field of Job
        """Set any fields of a job, its comment or state for example."""
        self._jobs[job_id] = replace(self._jobs[job_id], **fields)
        return self._jobs[job_id]

    # The Scheduler protocol.

    async def jobs(self, name_prefix: str) -> list[Job]:
        await self._note(f"jobs {name_prefix}")
        before = count_jobs_ahead(self._queue())
        ours = [job for job in self._jobs.values() if job.name.startswith(name_prefix)]
        return [replace(job, ahead=before.get(job.id)) for job in ours]

    async def jobs_by_id(self, job_ids: Iterable[int]) -> list[Job]:
        wanted = sorted(set(job_ids))
        await self._note(f"jobs_by_id {','.join(map(str, wanted))}")
        return [self._jobs[job_id] for job_id in wanted if job_id in self._jobs]

    async def queue(self) -> list[QueuedJob]:
        await self._note("queue")
        return self._queue()

    def _queue(self) -> list[QueuedJob]:
        waiting = [job for job in self._jobs.values() if job.state is JobState.PENDING]
        return [QueuedJob(job.id, 0 if "Held" in job.reason else 1, "gpu", job.reason, job.user) for job in waiting]

    async def finished_jobs(self, job_ids: Iterable[int]) -> dict[int, FinishedJob]:
        wanted = sorted(set(job_ids))
        await self._note(f"finished {','.join(map(str, wanted))}")
        return {job_id: self._accounting[job_id] for job_id in wanted if job_id in self._accounting}

    async def nodes(self) -> dict[str, Node]:
        await self._note("nodes")
        used = {name: fields for job_id, (name, fields) in self._uses.items() if not self._jobs[job_id].state.ended}
        return {name: replace(node, **used.get(name, {})) for name, node in self._nodes.items()}

    async def partitions(self) -> dict[str, Partition]:
        await self._note("partitions")
        return dict(self._partitions)

    async def cancel(self, job_id: int) -> None:
        await self._note(f"cancel {job_id}")
        job = self._jobs.get(job_id)
        if job is None or job.state.ended:
            return
        if self._user not in {None, job.user}:
            raise Refused(f"Kill job error on job id {job_id}: Access/permission denied")
        self._end_cancelled(job)

    async def set_time_limit(self, job_id: int, minutes: int) -> None:
        await self._note(f"set_time_limit {job_id} {minutes}")
        job = self._waiting_or_running(job_id)
        if self._user is not None and minutes * 60.0 > self._limits.get(job_id, 0.0):
            raise Refused("Access/permission denied")
        self._limits[job_id] = minutes * 60.0
        if job.started_at is not None and job.state.runs:
            self.change(job_id, ends_at=job.started_at + minutes * 60.0)

    async def start_now(self, job_id: int) -> None:
        await self._note(f"start_now {job_id}")
        job = self._waiting_or_running(job_id)
        if not job.state.waits:
            raise Refused("Job is no longer pending execution")
        self.change(job_id, started_at=self._now(), reason="" if job.reason == "BeginTime" else job.reason)

    def _waiting_or_running(self, job_id: int) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise Refused("Invalid job id specified")
        if job.state.ended:
            raise Refused("Job/step already completing or completed")
        if self._user not in {None, job.user}:
            raise Refused("Access/permission denied")
        return job

    async def private_data(self) -> frozenset[str]:
        await self._note("private_data")
        return self.private

    async def stores_comments(self) -> bool:
        await self._note("stores_comments")
        return self.stored

    async def version(self) -> str:
        await self._note("version")
        return "26.05.5"

    async def close(self) -> None:
        """Nothing is held."""

    async def _note(self, question: str) -> None:
        self.asked.append(question)

    def _end_cancelled(self, job: Job) -> None:
        self.end(
            job.id,
            JobState.CANCELLED,
            signal=15 if job.state.runs else 0,
            cancelled_by=self._user or "berth",
        )


class SilentScheduler(FakeScheduler):
    """Gives no answer while `silent`, as if slurmctld were dead. Tests still see what happens to jobs meanwhile."""

    silent = True

    async def _note(self, question: str) -> None:
        await super()._note(question)
        if self.silent:
            raise NoAnswer("Unable to contact slurm controller (connect failure)")


class SlowScheduler(FakeScheduler):
    """Answers only when `let_go` is set. `reached` is set once a question waits."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        super().__init__(now=now)
        self.reached = asyncio.Event()
        self.let_go = asyncio.Event()

    async def _note(self, question: str) -> None:
        await super()._note(question)
        self.reached.set()
        await self.let_go.wait()


class StubbornScheduler(FakeScheduler):
    """Cancelled jobs stay COMPLETING until the test calls `end`, as with processes that do not die."""

    def _end_cancelled(self, job: Job) -> None:
        self.change(job.id, state=JobState.COMPLETING)
