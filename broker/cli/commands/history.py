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

LAST_WORDS = 64 * 1024
"""Bytes of the log's end in which `explain` looks for what went wrong."""

HEADINGS = ("JOB", "NODE", "STARTED", "RAN FOR", "GPU HOURS", "ENDED AS")


@click.command()
@name_argument
@json_option
@pass_invocation
def history(invocation: Invocation, name: str) -> None:
    """List the jobs that have carried a session, the last one first.

    Where and when each ran, how it ended, and what it had of GPUs: whole ones times hours, with shares of one left out.
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
    """One line, under HEADINGS."""
    from broker.format import format_duration, format_time

    ended = " ".join(part for part in (job.outcome, f"({job.reason})" if job.reason else "") if part)
    if job.job_id is None and not job.outcome:
        ended = "Slurm has not taken it"
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
    """Whole GPUs times hours, of the last run of each job."""
    return sum(job.gpus * _ran(job, now) / 3600 for job in jobs)


def _ran(job: JobView, now: float) -> float:
    """Seconds."""
    return 0.0 if job.started_at is None else max(0.0, (job.ended_at or now) - job.started_at)


@click.command()
@name_argument
@json_option
@pass_invocation
def explain(invocation: Invocation, name: str) -> None:
    """Say why a session is as it is, and what to do.

    Why it waits and when it is expected to start, how its last job ended, what the job itself said of it, and the
    command that helps.
    """
    from broker.cli.advice import explain_session

    client = invocation.client
    view = client.session(name)
    lines = list(explain_session(view, client.jobs(name), client.log(name, tail=LAST_WORDS), time.time()))
    if invocation.json:
        output.print_json({"name": name, "lines": [{"title": title, "text": text} for title, text in lines]})
        return
    output.print_line(name)
    for title, text in lines:
        output.print_line(f"  {title:<10} {text}")
