"""The process that pyslurm lives in: one JSON line in, one JSON line out, until standard input ends.

pyslurm holds the interpreter lock while Slurm does not answer, and libslurm ends the process when it finds no
configuration; in a process of its own, both do no harm. The module imports nothing but pyslurm and the standard
library, so that the interpreter of another environment can run it: `…/python slurm/pyslurm_worker.py`.

    {"ask": "jobs", "prefix": "berth-"}   → {"answer": {"jobs": [[id, name, …], …], "queue": [[id, priority, …], …]}}
    {"ask": "jobs_by_id", "ids": [7, 9]}  → {"answer": [[id, name, …], …]}
    {"ask": "queue"}                      → {"answer": [[id, priority, partition, reason, user], …]}
    {"ask": "finished", "ids": [7, 9]}    → {"answer": [[id, name, …], …]}
    {"ask": "nodes", "command": ["scontrol", …], "env": {…}}
                                          → {"answer": "NodeName=c1 …"}
    {"ask": "partitions"}                 → {"answer": [{"name": …, …}, …]}
    {"ask": "cancel", "id": 7}            → {"answer": null} or {"refused": "…"}
    {"ask": "set_time_limit", "id": 7, "minutes": 90}
                                          → {"answer": null} or {"refused": "…"}
    {"ask": "start_now", "id": 7}         → the same
    {"ask": "private_data"}               → {"answer": ["jobs", …]}
    {"ask": "stores_comments"}            → {"answer": true}
    {"ask": "version"}                    → {"answer": "26.05.5"}

An error is {"error": "…"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_REFUSALS = {
    *("ESLURM_ACCESS_DENIED", "ESLURM_USER_ID_MISSING", "ESLURM_INVALID_TIME_LIMIT", "ESLURM_INVALID_JOB_ID"),
    *("ESLURM_ALREADY_DONE", "ESLURM_JOB_FINISHED", "ESLURM_JOB_NOT_PENDING", "ESLURM_DISABLED"),
}


def main() -> int:
    """Answer until standard input ends. Other output, such as that of libslurm, goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)
    return 0


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        import pyslurm  # noqa: PLC0415 - a missing pyslurm is reported to the caller
    except ImportError as error:
        return {"error": f"pyslurm cannot be imported: {error}"}
    try:
        return {"answer": _QUESTIONS[request["ask"]](pyslurm, request)}
    except OSError as error:
        return {"error": f"{request['ask']}: {error}"}
    except pyslurm.PyslurmError as error:
        refused = getattr(error, "errno", None) in {getattr(pyslurm, name, None) for name in _REFUSALS}
        return {"refused" if refused else "error": f"{request['ask']}: {error}"}


def _jobs(pyslurm: Any, request: dict[str, Any]) -> dict[str, list[list[Any]]]:  # noqa: ANN401 - the module has no types
    """Return Berth's jobs and, if one of them waits, all waiting jobs."""
    prefix = request["prefix"]
    with _no_statistics():
        jobs = pyslurm.Jobs.load()
    ours = [_record(job) for job in jobs.values() if _text(job, "name").startswith(prefix)]
    waits = any(job[3] == "PENDING" for job in ours)
    return {"jobs": ours, "queue": _queue(jobs) if waits else []}


def _jobs_by_id(pyslurm: Any, request: dict[str, Any]) -> list[list[Any]]:  # noqa: ANN401 - the module has no types
    """Return the jobs with these ids that slurmctld knows."""
    found = []
    with _no_statistics():
        for job_id in request["ids"]:
            try:
                found.append(_record(pyslurm.Job.load(job_id)))
            except pyslurm.PyslurmError as error:
                if getattr(error, "errno", None) != getattr(pyslurm, "ESLURM_INVALID_JOB_ID", None):
                    raise
    return found


def _record(job: Any) -> list[Any]:  # noqa: ANN401 - the module has no types
    return [
        job.id,
        _text(job, "name"),
        _user(job.user_id),
        job.state,
        job.state_reason or "",
        _text(job, "comment"),
        job.allocated_nodes or "",
        job.requeue_count,
        job.submit_time,
        job.start_time,
        job.end_time,
    ]


def _all_waiting(pyslurm: Any, _: dict[str, Any]) -> list[list[Any]]:  # noqa: ANN401 - the module has no types
    with _no_statistics():
        return _queue(pyslurm.Jobs.load())


def _queue(jobs: Any) -> list[list[Any]]:  # noqa: ANN401 - the module has no types
    waiting = [job for job in jobs.values() if job.state == "PENDING"]
    return [
        [job.id, job.priority or 0, job.partition or "", job.state_reason or "", _user(job.user_id)] for job in waiting
    ]


@contextlib.contextmanager
def _no_statistics() -> Iterator[None]:
    """Keep pyslurm from filling in the statistics of every job, which nothing here reads.

    It does so attribute by attribute: 65 of the 110 ms for 10,000 jobs (pyslurm 25.11).
    """
    module: Any = sys.modules.get("pyslurm.db.stats")
    lister = getattr(module, "instance_to_dict", None)
    if lister is None:
        yield
        return
    module.instance_to_dict = lambda _: {}
    try:
        yield
    finally:
        module.instance_to_dict = lister


def _finished_jobs(pyslurm: Any, request: dict[str, Any]) -> list[list[Any]]:  # noqa: ANN401 - the module has no types
    try:
        found = pyslurm.db.Jobs.load(pyslurm.db.JobFilter(ids=request["ids"]))
    except pyslurm.RPCError:
        if pyslurm.slurmctld.Config.load().accounting_storage_type:
            raise
        return []  # there is no accounting, so it remembers no job
    return [
        [
            job.id,
            _text(job, "name"),
            job.user_name or "",
            job.state,
            job.exit_code or 0,
            job.exit_code_signal or 0,
            job.submit_time,
            job.end_time,
            (job.state.startswith("CANCELLED") and job.cancelled_by) or "",
        ]
        for job in found.values()
    ]


def _nodes(_: Any, request: dict[str, Any]) -> str:  # noqa: ANN401 - the module has no types
    """Run the command, without a time limit: the caller kills the process group."""
    done = subprocess.run(
        request["command"], env=request["env"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        raise OSError(f"{request['command'][0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")


def _partitions(pyslurm: Any, _: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ANN401 - the module has no types
    return [
        {
            "name": part.name,
            "state": part.state,
            "is_default": part.is_default,
            "is_hidden": part.is_hidden,
            "is_reserved": part.is_root_only or part.requires_reservation,
            "groups": part.allowed_groups,
            "accounts": part.allowed_accounts,
            "qos": part.allowed_qos,
            "max_time_s": _times(part.max_time, 60),
            "default_time_s": _times(part.default_time, 60),
            "max_cpus_per_node": _times(part.max_cpus_per_node, 1),
            "max_memory_mib": _times(part.max_memory_per_node, 1),
            "nodes": part.total_nodes,
        }
        for part in pyslurm.Partitions.load().values()
    ]


def _times(number: Any, factor: int) -> int | None:  # noqa: ANN401 - the module has no types
    """Return the product; None for pyslurm's words for no limit."""
    return number * factor if isinstance(number, int) else None


def _cancel(pyslurm: Any, request: dict[str, Any]) -> None:  # noqa: ANN401 - the module has no types
    pyslurm.Job(request["id"]).cancel()


def _set_time_limit(pyslurm: Any, request: dict[str, Any]) -> None:  # noqa: ANN401 - the module has no types
    pyslurm.Job(request["id"]).modify(pyslurm.JobSubmitDescription(time_limit=request["minutes"]))


def _start_now(pyslurm: Any, request: dict[str, Any]) -> None:  # noqa: ANN401 - the module has no types
    pyslurm.Job(request["id"]).modify(pyslurm.JobSubmitDescription(begin_time="now"))


def _private_data(pyslurm: Any, _: dict[str, Any]) -> list[str]:  # noqa: ANN401 - the module has no types
    return list(pyslurm.slurmctld.Config.load().private_data)


def _stores_comments(pyslurm: Any, _: dict[str, Any]) -> bool:  # noqa: ANN401 - the module has no types
    return "JOB_COMMENT" in pyslurm.slurmctld.Config.load().accounting_store_flags


def _version(pyslurm: Any, _: dict[str, Any]) -> str:  # noqa: ANN401 - the module has no types
    return str(pyslurm.slurmctld.Config.load().version)


_QUESTIONS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "jobs": _jobs,
    "jobs_by_id": _jobs_by_id,
    "queue": _all_waiting,
    "finished": _finished_jobs,
    "nodes": _nodes,
    "partitions": _partitions,
    "cancel": _cancel,
    "set_time_limit": _set_time_limit,
    "start_now": _start_now,
    "private_data": _private_data,
    "stores_comments": _stores_comments,
    "version": _version,
}


def _text(job: Any, attribute: str) -> str:  # noqa: ANN401 - the module has no types
    """Read a text of a job's owner or of an operator; empty if pyslurm cannot read it, as bytes that are not UTF-8."""
    try:
        return getattr(job, attribute) or ""
    except UnicodeDecodeError:
        return ""


@cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


if __name__ == "__main__":
    sys.exit(main())
