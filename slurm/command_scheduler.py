"""The scheduler that uses Slurm's own commands: squeue, sacct, scancel, scontrol.

It works with every client of Slurm.

Names and comments are arbitrary text of their owners, with line ends and control characters, and Slurm prints them
unchanged. Each call marks its records with a random word, so that no comment can pass for a record of another user's
job. The word is in the environment, since other users can read command lines.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from slurm.nodes import SHOW_NODES, Node, parse_nodes
from slurm.partitions import SHOW_PARTITIONS, Partition, parse_partitions
from slurm.queue_position import QueuedJob, count_jobs_ahead
from slurm.run import CommandError, run_command
from slurm.scheduler import FinishedJob, Job, NoAnswer, Refused
from slurm.state import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_KEPT_VARIABLES = ("HOME", "LD_LIBRARY_PATH", "PATH", "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "USER")
"""Variables that the commands get. Others, such as SQUEUE_STATES or SLURM_CLUSTERS, change answers."""

_FIXED_VARIABLES = {"LC_ALL": "C", "TZ": "UTC0"}
"""With a time zone to look up, squeue takes half as long again for the times of 10,000 jobs."""

_SEPARATOR = "\x1f"

_SQUEUE_FIELDS = (
    "JobId",
    "UserName",
    "State",
    "Reason",
    "NodeList",
    "RestartCnt",
    "SubmitTime",
    "StartTime",
    "EndTime",
    "PriorityLong",
    "Partition",
)
_QUEUE_FIELDS = ("JobId", "PriorityLong", "Partition", "Reason", "UserName")
_REFUSAL = re.compile(
    r"denied|not permitted|invalid|exceeds|no longer pending|already|finished|disabled", re.IGNORECASE
)
"""Words of scontrol after slurmctld has refused an update: slurm_strerror(3)."""

_SACCT_FIELDS = ("Submit", "End", "JobIDRaw", "User", "State", "ExitCode", "JobName")


class CommandScheduler:
    """Slurm through its commands, each of which is killed after `timeout` seconds.

    `run_prefix` precedes every command, for a Slurm behind another program, which must pass the environment on.
    """

    name = "commands"

    def __init__(self, run_prefix: Sequence[str] = (), *, timeout: float = 10.0) -> None:
        self._prefix = tuple(run_prefix)
        self._timeout = timeout

    async def jobs(self, name_prefix: str) -> list[Job]:
        mark, records = await self._records()
        jobs = [_parse_job(record, mark) for record in records if record.startswith(name_prefix)]
        if not any(job.state is JobState.PENDING for job in jobs):
            return jobs
        before = count_jobs_ahead(filter(None, (_parse_queued_job(record, mark) for record in records)))
        return [replace(job, ahead=before.get(job.id)) for job in jobs]

    async def jobs_by_id(self, job_ids: Iterable[int]) -> list[Job]:
        jobs: list[Job] = []
        for job_id in sorted(set(job_ids)):  # squeue queries slurmctld for all jobs if it is asked for two
            try:
                mark, records = await self._records(f"--jobs={job_id}")
            except NoAnswer as error:
                if not re.search(r"Invalid job id", str(error)):
                    raise
            else:
                jobs += (_parse_job(record, mark) for record in records)
        return [job for job in jobs if job.id in {*job_ids}]

    async def _records(self, *options: str) -> tuple[str, list[str]]:
        """Return a random mark, and squeue's record of each job that the options select, in which it separates."""
        mark = _SEPARATOR + secrets.token_hex(8)
        fields = [f"Name:{mark}", *(f"{field}:{_SEPARATOR}" for field in _SQUEUE_FIELDS), f"Comment:{mark}"]
        output = await self._ask(
            ("squeue", "--noheader", "--all", "--states=all", "--sort=i", *options),
            {"SQUEUE_FORMAT2": ",".join(fields), "SLURM_TIME_FORMAT": "%s"},
        )
        records = output.split(f"{mark}\n")
        if records.pop():
            raise NoAnswer("squeue: the last record is cut off")
        return mark, records

    async def queue(self) -> list[QueuedJob]:
        fields = [f"{field}:{_SEPARATOR}" for field in _QUEUE_FIELDS]
        output = await self._ask(
            ("squeue", "--noheader", "--all", "--states=PENDING"), {"SQUEUE_FORMAT2": ",".join(fields)}
        )
        return [_parse_waiting_job(line) for line in output.splitlines()]

    async def finished_jobs(self, job_ids: Iterable[int]) -> dict[int, FinishedJob]:
        wanted = sorted(set(job_ids))
        if not wanted:
            return {}
        mark = secrets.token_hex(8)
        try:
            output = await self._ask(
                (
                    *("sacct", "--noheader", "--parsable2", "--allocations", "--allusers"),
                    f"--delimiter={_SEPARATOR}",
                    f"--format={','.join(_SACCT_FIELDS)}",
                    f"--jobs={','.join(map(str, wanted))}",
                ),
                {"SLURM_TIME_FORMAT": f"{mark}%s"},
            )
        except NoAnswer as error:
            if "accounting storage is disabled" in str(error):
                return {}  # an answer after all: this cluster remembers no job
            raise
        found = {job.id: job for job in _parse_finished_jobs(output, mark)}
        return {job_id: found[job_id] for job_id in wanted if job_id in found and found[job_id].state.ended}

    async def nodes(self) -> dict[str, Node]:
        output = await self._ask(SHOW_NODES, {})
        try:
            return await asyncio.to_thread(parse_nodes, output)  # half a second for 5,000 nodes
        except ValueError as error:
            raise NoAnswer(f"scontrol show nodes: {error}") from error

    async def partitions(self) -> dict[str, Partition]:
        output = await self._ask(SHOW_PARTITIONS, {})
        try:
            return parse_partitions(output)
        except ValueError as error:
            raise NoAnswer(f"scontrol show partition: {error}") from error

    async def cancel(self, job_id: int) -> None:
        try:
            await self._run(("scancel", str(job_id)), {})
        except CommandError as error:
            if re.search(r"Invalid job id|already compl", error.stderr):
                return
            if re.search(r"denied|not permitted", error.stderr):
                raise Refused(error.stderr.strip()) from error
            raise NoAnswer(str(error)) from error

    async def set_time_limit(self, job_id: int, minutes: int) -> None:
        await self._update(job_id, f"TimeLimit={minutes}")

    async def start_now(self, job_id: int) -> None:
        await self._update(job_id, "StartTime=now")

    async def _update(self, job_id: int, change: str) -> None:
        try:
            await self._run(("scontrol", "update", f"JobId={job_id}", change), {})
        except CommandError as error:
            if _REFUSAL.search(error.stderr):
                raise Refused(error.stderr.strip()) from error
            raise NoAnswer(str(error)) from error

    async def private_data(self) -> frozenset[str]:
        return frozenset((await self._setting("PrivateData")).split(",")) - {"none"}

    async def stores_comments(self) -> bool:
        return "job_comment" in (await self._setting("AccountingStoreFlags")).lower().split(",")

    async def version(self) -> str:
        return await self._setting("SLURM_VERSION")

    async def _setting(self, name: str) -> str:
        """Return a value of slurmctld's configuration; of a value of several words, the first."""
        output = await self._ask(("scontrol", "show", "config"), {})
        match = re.search(rf"^{name} *= *(\S*)", output, re.MULTILINE)
        if not match:
            raise NoAnswer(f"scontrol show config: no {name}")
        return match[1]

    async def close(self) -> None:
        """Nothing is held between calls."""

    async def _ask(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        try:
            return await self._run(argv, env)
        except CommandError as error:
            raise NoAnswer(str(error)) from error

    async def _run(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        argv = (*self._prefix, *argv)
        finished = await run_command(argv, timeout=self._timeout, env={**command_environment(), **env})
        return finished.stdout


def command_environment() -> dict[str, str]:
    """Return the environment of Slurm's commands."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | _FIXED_VARIABLES


def _parse_job(record: str, mark: str) -> Job:
    try:
        name, rest = record.split(mark)
        job_id, user, state, reason, node, restarts, submitted, started, ends, _, _, comment = rest.split(
            _SEPARATOR, len(_SQUEUE_FIELDS)
        )
        return Job(
            id=int(job_id),
            name=name,
            user=user,
            state=JobState.parse(state),
            reason=_parse_text(reason),
            comment=_parse_text(comment),
            node=_parse_text(node),
            restarts=int(restarts),
            submitted_at=_parse_time(submitted),
            started_at=_parse_time(started),
            ends_at=_parse_time(ends),
        )
    except ValueError as error:
        raise NoAnswer(f"squeue: a record cannot be read: {record[:200]!a}") from error


def _parse_queued_job(record: str, mark: str) -> QueuedJob | None:
    """Return the job as one of the queue; None if it does not wait."""
    try:
        fields = record.partition(mark)[2].split(_SEPARATOR, len(_SQUEUE_FIELDS))
        job_id, user, state, reason, _, _, _, _, _, priority, partition, _ = fields
        return QueuedJob(int(job_id), int(priority), partition, reason, user) if state == "PENDING" else None
    except ValueError as error:
        raise NoAnswer(f"squeue: a record cannot be read: {record[:200]!a}") from error


def _parse_waiting_job(line: str) -> QueuedJob:
    try:
        job_id, priority, partition, reason, user, _ = line.split(_SEPARATOR)
        return QueuedJob(int(job_id), int(priority), partition, reason, user)
    except ValueError as error:
        raise NoAnswer(f"squeue: a record cannot be read: {line[:200]!a}") from error


def _parse_finished_jobs(output: str, mark: str) -> Iterable[FinishedJob]:
    """Read sacct's records. Each begins with its time of submission, so with the mark."""
    record = re.compile(
        rf"""
        {mark}(?P<submit>\d+){_SEPARATOR} (?:{mark})?(?P<end>\w+){_SEPARATOR}
        (?P<id>\d+){_SEPARATOR} (?P<user>[^{_SEPARATOR}]*){_SEPARATOR} (?P<state>[^{_SEPARATOR}]*){_SEPARATOR}
        (?P<code>\d+):(?P<signal>\d+){_SEPARATOR} (?P<name>.*?)\n(?={mark}|\Z)
        """,
        re.VERBOSE | re.DOTALL,
    )
    end = 0
    for match in record.finditer(output):
        if match.start() != end:
            break
        end = match.end()
        yield FinishedJob(
            id=int(match["id"]),
            name=match["name"],
            user=match["user"],
            state=JobState.parse(match["state"]),
            exit_code=int(match["code"]),
            signal=int(match["signal"]),
            submitted_at=float(match["submit"]),
            ended_at=_parse_time(match["end"]),
            cancelled_by=_canceller(match["state"]),
        )
    if end != len(output):
        raise NoAnswer(f"sacct: a record cannot be read: {output[end : end + 200]!a}")


def _canceller(state: str) -> str:
    """Return the user name in a state such as `CANCELLED by 1000`; empty for any other state."""
    uid = re.fullmatch(r"CANCELLED by (\d+)", state)
    if uid is None:
        return ""
    try:
        return pwd.getpwuid(int(uid[1])).pw_name
    except KeyError:
        return uid[1]


def _parse_text(field: str) -> str:
    return "" if field in {"(null)", "None", "N/A"} else field


def _parse_time(field: str) -> float | None:
    return float(field) if field.isdecimal() else None
