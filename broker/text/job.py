"""A session's jobs as text: one row for each in its history, their outcomes, and the GPU hours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_duration, format_time, pluralize
from broker.schema.states import HELD, NOT_READY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.sessions import JobView

JOB_HEADINGS = ("JOB", "NODE", "STARTED", "RAN FOR", "GPU HOURS", "ENDED AS")


_OWN_OUTCOMES = {HELD: "job kept for the next run", NOT_READY: "did not become ready; job kept for the next run"}
"""Descriptions of the outcomes that are not Slurm's. The job of such a run has not ended."""


def describe_outcome(outcome: str) -> str:
    """Describe the outcome of a session's run in words, unless it is one of Slurm's final states."""
    return _OWN_OUTCOMES.get(outcome, outcome)


def describe_job_outcome(job: JobView) -> str:
    """Describe how the job's run ended, or that it runs or waits, and how often Slurm has requeued the job."""
    ended = " ".join(part for part in (describe_outcome(job.outcome), f"({job.reason})" if job.reason else "") if part)
    if not ended and job.ended_at is None:
        ended = "not submitted" if job.job_id is None else "waiting" if job.started_at is None else "running"
    if job.restarts:
        because = f": {job.interruption}" if job.interruption else ""
        ended += f"{' ' if ended else ''}(requeued {job.restarts}x{because})"
    return ended


def job_row(job: JobView, now: float) -> tuple[str, ...]:
    """Return a row of `berth history`, under JOB_HEADINGS."""
    ended = describe_job_outcome(job)
    return (
        "" if job.job_id is None else str(job.job_id),
        job.node,
        "" if job.started_at is None else format_time(job.started_at, now),
        "" if job.started_at is None else format_duration(run_time(job, now)),
        f"{job.gpus * run_time(job, now) / 3600:.1f}" if job.gpus else "",
        ended,
    )


def count_jobs(jobs: Sequence[JobView]) -> str:
    """Count the jobs, such as `3 jobs`, or `3 runs of 2 jobs` if a job was kept for another run of its session."""
    number = len({job.job_id for job in jobs if job.job_id is not None})
    number += sum(job.job_id is None for job in jobs)
    count = pluralize(number, "job")
    return count if number == len(jobs) else f"{pluralize(len(jobs), 'run')} of {count}"


def gpu_hours(jobs: list[JobView], now: float) -> float:
    """Return whole GPUs times hours, summed over the last run of each job."""
    return sum(job.gpus * run_time(job, now) / 3600 for job in jobs)


def run_time(job: JobView, now: float) -> float:
    """Return the duration of the job's last run, in seconds."""
    return 0.0 if job.started_at is None else max(0.0, (job.ended_at or now) - job.started_at)
