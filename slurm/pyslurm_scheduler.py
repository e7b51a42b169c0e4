"""The scheduler that uses pyslurm, in a process of its own. slurm/pyslurm_worker.py has the reasons."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurm.command_scheduler import command_environment
from slurm.nodes import SHOW_NODES, Node, parse_nodes
from slurm.partitions import Partition
from slurm.queue_position import QueuedJob, count_jobs_ahead
from slurm.scheduler import FinishedJob, Job, NoAnswer, Refused
from slurm.state import JobState

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Iterable, Sequence

MAX_ANSWER_BYTES = 1 << 28
"""A job takes about 300 bytes, so this is room for some 900,000 jobs of Berth's."""

WORKER_ARGV = (sys.executable, "-P", str(Path(__file__).with_name("pyslurm_worker.py")))
"""By its path and without a search path (-P), so that no working directory can provide modules."""


class PyslurmScheduler:
    """Slurm through a worker process, which the first question starts. It answers one question at a time.

    Each question has `timeout` seconds, with the wait for earlier questions and perhaps for a new worker. A worker that
    does not answer in time, answers with an error, or dies, is killed, and the next question gets a new one.
    `worker_argv` starts a worker with an interpreter that has pyslurm.
    """

    name = "pyslurm"

    def __init__(self, worker_argv: Sequence[str] = WORKER_ARGV, *, timeout: float = 10.0) -> None:
        self._argv = tuple(worker_argv)
        self._timeout = timeout
        self._worker: Process | None = None
        self._lock = asyncio.Lock()

    async def jobs(self, name_prefix: str) -> list[Job]:
        answer = await self._ask({"ask": "jobs", "prefix": name_prefix})
        before = count_jobs_ahead(QueuedJob(*waiting) for waiting in answer["queue"])
        return [_job(record, before.get(record[0])) for record in answer["jobs"]]

    async def jobs_by_id(self, job_ids: Iterable[int]) -> list[Job]:
        wanted = sorted(set(job_ids))
        return [_job(record) for record in await self._ask({"ask": "jobs_by_id", "ids": wanted})] if wanted else []

    async def queue(self) -> list[QueuedJob]:
        return [QueuedJob(*waiting) for waiting in await self._ask({"ask": "queue"})]

    async def finished_jobs(self, job_ids: Iterable[int]) -> dict[int, FinishedJob]:
        wanted = sorted(set(job_ids))
        if not wanted:
            return {}
        answer = await self._ask({"ask": "finished", "ids": wanted})
        found = [
            FinishedJob(
                id=job_id,
                name=name,
                user=user,
                state=JobState.parse(state),
                exit_code=exit_code,
                signal=number,
                submitted_at=submitted,
                ended_at=ended,
                cancelled_by=cancelled_by,
            )
            for job_id, name, user, state, exit_code, number, submitted, ended, cancelled_by in answer
        ]
        return {job.id: job for job in found if job.id in wanted and job.state.ended}

    async def nodes(self) -> dict[str, Node]:
        """Return all nodes as slurm.scheduler.Scheduler does. The worker runs scontrol: see slurm.nodes."""
        output = await self._ask({"ask": "nodes", "command": SHOW_NODES, "env": command_environment()})
        try:
            return await asyncio.to_thread(parse_nodes, output)  # half a second for 5,000 nodes
        except ValueError as error:
            raise NoAnswer(f"scontrol show nodes: {error}") from error

    async def partitions(self) -> dict[str, Partition]:
        return {record["name"]: _partition(record) for record in await self._ask({"ask": "partitions"})}

    async def cancel(self, job_id: int) -> None:
        await self._ask({"ask": "cancel", "id": job_id})

    async def set_time_limit(self, job_id: int, minutes: int) -> None:
        await self._ask({"ask": "set_time_limit", "id": job_id, "minutes": minutes})

    async def start_now(self, job_id: int) -> None:
        await self._ask({"ask": "start_now", "id": job_id})

    async def private_data(self) -> frozenset[str]:
        return frozenset(await self._ask({"ask": "private_data"}))

    async def stores_comments(self) -> bool:
        return bool(await self._ask({"ask": "stores_comments"}))

    async def version(self) -> str:
        return str(await self._ask({"ask": "version"}))

    async def close(self) -> None:
        async with self._lock:
            await self._stop()

    async def _ask(self, request: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        try:
            async with asyncio.timeout(self._timeout), self._lock:
                try:
                    return await self._exchange(request)
                except Refused:
                    raise
                except BaseException:
                    await self._stop()
                    raise
        except TimeoutError as error:
            raise NoAnswer(f"pyslurm: no answer to {request['ask']} in {self._timeout:g} s") from error
        except (OSError, ValueError) as error:
            raise NoAnswer(f"pyslurm: {error}") from error

    async def _exchange(self, request: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        worker = await self._ensure_worker()
        assert worker.stdin is not None  # both are pipes
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        await worker.stdin.drain()
        line = await worker.stdout.readline()
        if not line.endswith(b"\n"):
            raise NoAnswer(f"pyslurm: its process ended while it was asked for {request['ask']}")
        answer = json.loads(line)
        if "refused" in answer:
            raise Refused(answer["refused"])
        if "error" in answer:
            raise NoAnswer(f"pyslurm: {answer['error']}")
        return answer["answer"]

    async def _ensure_worker(self) -> Process:
        if self._worker is None or self._worker.returncode is not None:
            # Without its automatic start libslurm crashes at the first question.
            env = {name: value for name, value in os.environ.items() if name != "PYSLURM_DISABLE_AUTO_INIT"}
            starting = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    *self._argv,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    env=env,
                    limit=MAX_ANSWER_BYTES,
                    start_new_session=True,
                )
            )
            try:
                # Shielded: a start that is cancelled half-way kills the program alone and may hang (slurm/run.py).
                self._worker = await asyncio.shield(starting)
            except asyncio.CancelledError:
                self._worker = await starting
                raise
        return self._worker

    async def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if worker.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
        await worker.wait()


def _partition(record: dict[str, Any]) -> Partition:
    names = {field: tuple(name for name in record[field] if name != "ALL") for field in ("groups", "accounts", "qos")}
    return Partition(**(record | names))


def _job(record: Sequence[Any], ahead: int | None = None) -> Job:
    job_id, name, user, state, reason, comment, node, restarts, submitted, started, ends = record
    return Job(
        id=job_id,
        name=name,
        user=user,
        state=JobState.parse(state),
        reason="" if reason == "None" else reason,
        comment=comment,
        node=node,
        restarts=restarts,
        submitted_at=submitted,
        started_at=started,
        ends_at=ends,
        ahead=ahead,
    )
