"""A Slurm in memory, and ones that misbehave; tests/contract/test_scheduler.py holds it against the real thing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slurm.queue_position import QueuedJob, count_jobs_ahead
from slurm.scheduler import FinishedJob, Job, NoAnswer, Refused
from slurm.state import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class FakeScheduler:
    """One cluster. Nothing happens by itself: tests submit, start, end and forget jobs.

    It asks as an operator, or as `user`, who may then cancel only jobs of their own. `asked` keeps each question
    and order in turn, such as `jobs berth-` and `cancel 7`.
    """

    name = "fake"

    def __init__(self, *, now: Callable[[], float] = time.time, user: str | None = None) -> None:
        self.asked: list[str] = []
        self._now = now
        self._user = user
        self._jobs: dict[int, Job] = {}
        self._accounting: dict[int, FinishedJob] = {}
        self._limits: dict[int, float] = {}
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
        waiting = [job for job in self._jobs.values() if job.state is JobState.PENDING]
        before = count_jobs_ahead(
            QueuedJob(job.id, 0 if "Held" in job.reason else 1, "gpu", job.reason) for job in waiting
        )
        ours = [job for job in self._jobs.values() if job.name.startswith(name_prefix)]
        return [replace(job, ahead=before.get(job.id)) for job in ours]

    async def finished(self, job_ids: Iterable[int]) -> dict[int, FinishedJob]:
        wanted = sorted(set(job_ids))
        await self._note(f"finished {','.join(map(str, wanted))}")
        return {job_id: self._accounting[job_id] for job_id in wanted if job_id in self._accounting}

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


class ForgetfulScheduler(FakeScheduler):
    """Lost its state: it answers, and knows none of the jobs it was given, neither live nor ended."""

    async def jobs(self, name_prefix: str) -> list[Job]:
        await super().jobs(name_prefix)
        return []

    async def finished(self, job_ids: Iterable[int]) -> dict[int, FinishedJob]:
        await super().finished(job_ids)
        return {}


class StubbornScheduler(FakeScheduler):
    """Cancelled jobs stay COMPLETING until the test calls `end`, as with processes that do not die."""

    def _end_cancelled(self, job: Job) -> None:
        self.change(job.id, state=JobState.COMPLETING)
