"""`berth history` and `explain`: list the jobs of a session, and explain its state."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time

import click

from broker.cli import output
from broker.cli.commands.sessions import reference_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.text.job import JOB_HEADINGS, count_jobs, gpu_hours, job_row

LOG_TAIL_BYTES = 64 * 1024
"""The end of the log in which `explain` looks for errors."""


@click.command()
@reference_argument
@json_option
@pass_invocation
def history(invocation: Invocation, name: str) -> None:
    """List the jobs of a session, the latest first.

    With node, time, outcome and GPU hours of each job. GPU hours count whole GPUs, not shares. A job that was kept for
    a rollback, a switch or a restart has a line for each run of the session in it.
    """
    jobs = invocation.client.jobs(name)
    now = time.time()
    if invocation.json:
        output.print_json({"jobs": [job.model_dump(mode="json") for job in jobs], "gpu_hours": gpu_hours(jobs, now)})
        return
    output.print_table(JOB_HEADINGS, [job_row(job, now) for job in jobs])
    hours = gpu_hours(jobs, now)
    output.print_note(f"{count_jobs(jobs)}{f', {hours:.1f} GPU hours' if hours else ''}")


@click.command()
@reference_argument
@json_option
@pass_invocation
def explain(invocation: Invocation, name: str) -> None:
    """Explain a session's state, and suggest what to do.

    Why it waits, its expected start, how its last job ended, the job's error messages, and a command that helps.
    """
    from broker.text.advice import explain_session

    client = invocation.client
    view = client.session(name)
    lines = list(explain_session(view, client.jobs(name), client.log(name, tail=LOG_TAIL_BYTES), time.time()))
    if invocation.json:
        output.print_json({"name": name, "lines": [{"title": title, "text": text} for title, text in lines]})
        return
    output.print_line(name)
    for title, text in lines:
        output.print_line(f"  {title:<10} {text}")
