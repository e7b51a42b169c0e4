"""A session's jobs as text: one row for each in its history, their outcomes, and the GPU hours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_duration, format_time

if TYPE_CHECKING:
    from broker.schema.sessions import JobView

JOB_HEADINGS = ("JOB", "NODE", "STARTED", "RAN FOR", "GPU HOURS", "ENDED AS")


def describe_job_outcome(job: JobView) -> str:
    """Describe how the job ended, and how often Slurm has requeued it; empty if it runs or waits."""
    ended = " ".join(part for part in (job.outcome, f"({job.reason})" if job.reason else "") if part)
    if job.job_id is None and not job.outcome:
        ended = "not submitted"
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


def gpu_hours(jobs: list[JobView], now: float) -> float:
    """Return whole GPUs times hours, summed over the last run of each job."""
    return sum(job.gpus * run_time(job, now) / 3600 for job in jobs)


def run_time(job: JobView, now: float) -> float:
    """Return the duration of the job's last run, in seconds."""
    return 0.0 if job.started_at is None else max(0.0, (job.ended_at or now) - job.started_at)
