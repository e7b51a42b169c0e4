"""The actions of the contract suite on a cluster: the fake one and a real one."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeVar

from slurm import pyslurm_worker
from slurm.command_scheduler import CommandScheduler
from slurm.node_state import NodeCondition
from slurm.pyslurm_scheduler import PyslurmScheduler
from slurm.state import JobState
from tests.fakes.scheduler import FakeScheduler, SilentScheduler
from tests.lab_cluster import Lab, wait_for

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator
    from contextlib import AbstractContextManager

    from slurm.scheduler import Job, Scheduler

T = TypeVar("T")

DEADLINE = 4.0
"""Seconds that each question has on the real clusters; their answers take milliseconds."""

MINUTES = 5
"""The time limit of all jobs."""

OLDER = "commands-24.11"
REAL = ("commands", "pyslurm", OLDER)
"""The real clusters, each asked by one back end."""


class Work(Enum):
    """The work of a job, as a shell script."""

    LAST = "exec sleep 600"
    SUCCEED = "true"
    FAIL = "exit 3"
    RAISE_SIGNAL = "kill -9 $$"
    HOG_MEMORY = "exec python3 -c 'kept = bytearray(300 << 20); import time; time.sleep(600)'"
    OVERRUN = "exec sleep 601"  # the cluster moves its end forward
    COMMENT = 'scontrol update JobId=$SLURM_JOB_ID Comment="said by the job: c1:40000"; exec sleep 600'


class Cluster(Protocol):
    """A cluster, and the scheduler that asks it as an operator."""

    @property
    def scheduler(self) -> Scheduler:
        """The one under test."""

    def scheduler_of(self, user: str) -> Scheduler:
        """Another one, that asks as this user."""

    def submit(
        self, name: str, work: Work = Work.LAST, *, user: str = "alice", comment: str = "", held: bool = False
    ) -> int:
        """Submit a job; unless it is held, it starts at once."""

    def refuse(self, name: str, *, comment: str) -> None:
        """Submit a job with a resource that no node has; Slurm refuses it."""

    def submit_with(self, name: str, gres: str) -> int:
        """Submit a job of one CPU and 50 MiB with a generic resource of c1's, such as `gpu:intel:1`; it starts."""

    def submit_array(self, name: str) -> int:
        """Submit a held array of three tasks, of which one may run at a time; its id."""

    def submit_for_all(self, name: str) -> int:
        """Submit a job that wants every node for itself; its id."""

    def release(self, job_id: int) -> None:
        """Release a held job."""

    def requeue(self, job_id: int) -> None:
        """Requeue a running job."""

    def drained(self, node: str, reason: str) -> AbstractContextManager[None]:
        """Keep the node from taking new jobs during the block."""

    def outage(self, daemon: str, *, dead: bool, survivor: str) -> AbstractContextManager[None]:
        """Kill, or else stop, a daemon of the login node for the block; jobs called `survivor` outlast it."""


class FakeCluster:
    """The cluster is the scheduler."""

    def __init__(self) -> None:
        self.scheduler = SilentScheduler()
        self.scheduler.silent = False
        self.scheduler.stored = True  # as the lab's slurm.conf has it

    def scheduler_of(self, user: str) -> Scheduler:
        other = FakeScheduler(user=user)
        other._jobs = self.scheduler._jobs
        return other

    def submit(
        self, name: str, work: Work = Work.LAST, *, user: str = "alice", comment: str = "", held: bool = False
    ) -> int:
        fake = self.scheduler
        job_id = fake.submit(name, user=user, comment=comment, held=held, minutes=MINUTES)
        if held:
            return job_id
        fake.start(job_id)
        match work:
            case Work.SUCCEED:
                fake.end(job_id)
            case Work.FAIL:
                fake.end(job_id, JobState.FAILED, exit_code=3)
            case Work.RAISE_SIGNAL:
                fake.end(job_id, JobState.FAILED, signal=9)
            case Work.HOG_MEMORY:
                fake.end(job_id, JobState.OUT_OF_MEMORY, signal=125)
            case Work.OVERRUN:
                fake.end(job_id, JobState.TIMEOUT)
            case Work.COMMENT:
                fake.change(job_id, comment="said by the job: c1:40000")
        return job_id

    def refuse(self, name: str, *, comment: str) -> None:
        self.scheduler.refuse(name, comment=comment)

    def submit_with(self, name: str, gres: str) -> int:
        job_id = self.submit(name)
        gpu, shard = self.scheduler._nodes["c1"].gres
        count = int(gres.rpartition(":")[2])
        if gres.startswith("gpu"):
            gpu = replace(gpu, used=1, used_devices=frozenset({0}))
            shard = replace(shard, shares=((None, 4), (0, 4)))
        else:
            shard = replace(shard, used=count, shares=((count, 4), (0, 4)))
        self.scheduler.use_node(job_id, "c1", state="MIXED", cpus_used=1, memory_used_mib=50, gres=(gpu, shard))
        return job_id

    def submit_array(self, name: str) -> int:
        return self.scheduler.submit(name, held=True, minutes=MINUTES)

    def submit_for_all(self, name: str) -> int:
        job_id = self.scheduler.submit(name, minutes=MINUTES)
        runs = any(job.name == name and job.state.runs for job in self.scheduler._jobs.values())
        if runs:
            self.scheduler.change(job_id, reason="Resources")
        else:
            self.scheduler.start(job_id)
        return job_id

    def release(self, job_id: int) -> None:
        """A task of an array starts as a job of its own; other jobs are none of the suite's."""
        array = self.scheduler.change(job_id, reason="JobArrayTaskLimit")
        self.scheduler.start(self.scheduler.submit(array.name, minutes=MINUTES))

    def requeue(self, job_id: int) -> None:
        self.scheduler.requeue(job_id)

    @contextmanager
    def drained(self, node: str, reason: str) -> Iterator[None]:
        self.scheduler.set_node(node, NodeCondition.DRAINING, reason)
        yield
        self.scheduler.set_node(node, NodeCondition.UP)

    @contextmanager
    def outage(self, daemon: str, *, dead: bool, survivor: str) -> Iterator[None]:  # noqa: ARG002 - silent, whatever the cause
        self.scheduler.silent = True
        yield
        self.scheduler.silent = False


@dataclass
class RealCluster:
    """The lab, asked by one back end as the service account."""

    lab: Lab
    backend: str

    def __post_init__(self) -> None:
        self.scheduler = self.scheduler_of("berth")

    def scheduler_of(self, user: str) -> Scheduler:
        prefix = self.lab.prefix(user=user)
        if self.backend == "commands":
            return CommandScheduler(prefix, timeout=DEADLINE)
        # The lab's interpreter and pyslurm, this checkout's worker; it imports nothing else of ours, so its text does.
        source = inspect.getsource(pyslurm_worker)
        worker = ("env", "PYTHONPATH=/opt/pyslurm", "python3", "-c", source)
        return PyslurmScheduler((*prefix, *worker), timeout=DEADLINE)

    def submit(
        self, name: str, work: Work = Work.LAST, *, user: str = "alice", comment: str = "", held: bool = False
    ) -> int:
        job_id = self._sbatch(name, work, f"--comment={comment}", *(["--hold"] if held else []), user=user)
        if work is Work.OVERRUN:
            wait_for(lambda: self._state(job_id) == "RUNNING", what=f"the start of job {job_id}")
            self.lab.sh(f"scontrol update JobId={job_id} EndTime=now+1")
        return job_id

    def submit_with(self, name: str, gres: str) -> int:
        return self._sbatch(name, Work.LAST, "--nodelist=c1", f"--gres={gres}")

    def refuse(self, name: str, *, comment: str) -> None:
        words = ["sbatch", f"--job-name={name}", f"--comment={comment}", "--mem=50", "--gres=gpu:none:9"]
        done = self.lab.run([*words, "--chdir=/tmp", "--output=/dev/null", "--wrap", "true"], user="alice")
        assert done.returncode != 0

    def submit_array(self, name: str) -> int:
        return self._sbatch(name, Work.LAST, "--hold", "--array=1-3%1")

    def submit_for_all(self, name: str) -> int:
        return self._sbatch(name, Work.LAST, "--exclusive", "--nodes=3")

    def release(self, job_id: int) -> None:
        self.lab.sh(f"scontrol release {job_id}")

    def requeue(self, job_id: int) -> None:
        self.lab.sh(f"scontrol requeue {job_id}", user="alice")

    @contextmanager
    def drained(self, node: str, reason: str) -> Iterator[None]:
        self.lab.sh(f"scontrol update NodeName={node} State=DRAIN Reason='{reason}'")
        try:
            yield
        finally:
            self.lab.sh(f"scontrol update NodeName={node} State=RESUME")

    def outage(self, daemon: str, *, dead: bool, survivor: str) -> AbstractContextManager[None]:
        if dead and daemon == "slurmctld":
            self.lab.wait_until_saved(survivor)
        return self.lab.without(daemon) if dead else self.lab.paused(daemon)

    def _sbatch(self, name: str, work: Work, *options: str, user: str = "alice") -> int:
        command = ["sbatch", "--parsable", f"--job-name={name}", f"--time={MINUTES}", "--mem=50", "--chdir=/tmp"]
        done = self.lab.run([*command, "--output=/dev/null", *options, "--wrap", work.value], user=user)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return int(done.stdout)

    def _state(self, job_id: int) -> str:
        return self.lab.sh(f"squeue --noheader --states=all --jobs={job_id} --format=%T")


class Asker:
    """Asks a cluster from tests that are not coroutines, all in one event loop."""

    def __init__(self, cluster: Cluster, runner: asyncio.Runner) -> None:
        self.cluster = cluster
        self._runner = runner

    def ask(self, question: Coroutine[object, object, T]) -> T:
        return self._runner.run(question)

    def jobs(self, name: str) -> dict[int, Job]:
        listed = self.ask(self.cluster.scheduler.jobs(name))
        found = {job.id: job for job in listed}
        assert len(found) == len(listed), "a job is listed twice"
        return found

    def job(self, job_id: int, name: str) -> Job | None:
        return self.jobs(name).get(job_id)

    @contextmanager
    def scheduler_of(self, user: str) -> Iterator[Scheduler]:
        scheduler = self.cluster.scheduler_of(user)
        try:
            yield scheduler
        finally:
            self.ask(scheduler.close())

    def wait_until(self, name: str, job_id: int, holds: Callable[[JobState], bool], *, seconds: float = 30) -> None:
        def reached() -> bool:
            job = self.job(job_id, name)
            return job is not None and holds(job.state)

        wait_for(reached, what=f"the state of job {job_id}", seconds=seconds)

    def started(self, name: str, work: Work = Work.LAST, *, comment: str = "") -> int:
        """Submit a job and return its id when it runs."""
        job_id = self.cluster.submit(name, work, comment=comment)
        self.wait_until(name, job_id, lambda state: state is JobState.RUNNING)
        return job_id
