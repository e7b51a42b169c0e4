"""`berth history` and `explain`: list the jobs of a session, and explain its state."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation

if TYPE_CHECKING:
    from broker.schema.sessions import JobView

LOG_TAIL_BYTES = 64 * 1024
"""The end of the log in which `explain` looks for errors."""

HEADINGS = ("JOB", "NODE", "STARTED", "RAN FOR", "GPU HOURS", "ENDED AS")


@click.command()
@name_argument
@json_option
@pass_invocation
def history(invocation: Invocation, name: str) -> None:
    """List the jobs of a session, the latest first.

    With node, time, outcome and GPU hours of each job. GPU hours count whole GPUs, not shares.
    """
    jobs = invocation.client.jobs(name)
    now = time.time()
    if invocation.json:
        output.print_json({"jobs": [job.model_dump(mode="json") for job in jobs], "gpu_hours": gpu_hours(jobs, now)})
        return
    output.print_table(HEADINGS, [job_row(job, now) for job in jobs])
    hours = gpu_hours(jobs, now)
    output.print_note(f"{output.pluralize(len(jobs), 'job')}{f', {hours:.1f} GPU hours' if hours else ''}")


def job_row(job: JobView, now: float) -> tuple[str, ...]:
    """Return a row of `berth history`, under HEADINGS."""
    from broker.format import format_duration, format_time

    ended = " ".join(part for part in (job.outcome, f"({job.reason})" if job.reason else "") if part)
    if job.job_id is None and not job.outcome:
        ended = "not submitted"
    if job.restarts:
        ended += f"{' ' if ended else ''}(requeued {job.restarts}x)"
    return (
        "" if job.job_id is None else str(job.job_id),
        job.node,
        "" if job.started_at is None else format_time(job.started_at, now),
        "" if job.started_at is None else format_duration(_ran(job, now)),
        f"{job.gpus * _ran(job, now) / 3600:.1f}" if job.gpus else "",
        ended,
    )


def gpu_hours(jobs: list[JobView], now: float) -> float:
    """Return whole GPUs times hours, summed over the last run of each job."""
    return sum(job.gpus * _ran(job, now) / 3600 for job in jobs)


def _ran(job: JobView, now: float) -> float:
    """Return the duration of the job's last run, in seconds."""
    return 0.0 if job.started_at is None else max(0.0, (job.ended_at or now) - job.started_at)


@click.command()
@name_argument
@json_option
@pass_invocation
def explain(invocation: Invocation, name: str) -> None:
    """Explain a session's state, and suggest what to do.

    Why it waits, its expected start, how its last job ended, the job's error messages, and a command that helps.
    """
    from broker.cli.advice import explain_session

    client = invocation.client
    view = client.session(name)
    lines = list(explain_session(view, client.jobs(name), client.log(name, tail=LOG_TAIL_BYTES), time.time()))
    if invocation.json:
        output.print_json({"name": name, "lines": [{"title": title, "text": text} for title, text in lines]})
        return
    output.print_line(name)
    for title, text in lines:
        output.print_line(f"  {title:<10} {text}")
