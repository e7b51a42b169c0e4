"""`berth fetch` and `berth promote`: use the output of a job of `berth sbatch --env`."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from broker.cli import output
from broker.cli.commands.sessions import no_wait_option, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SessionName, known
from broker.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from broker.schema.environments import BatchJob, EnvironmentView

SHOWN_CHARS = 200
"""Of a path that is too long."""


class JobId(click.ParamType[str]):
    """A batch job that ran in an environment, or a task of a job array as `42_7`; completed with those there are."""

    name = "job"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[1-9][0-9]{0,9}(_[0-9]{1,9})?", value):
            self.fail(f"{value!r} is neither a job's id nor, as `42_7`, that of a job array's task", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [
            CompletionItem(job.key, help=environment.of)
            for environment in known(lambda client: client.environments())
            for job in environment.jobs
            if job.key.startswith(incomplete) and "@" not in job.key
        ]


job_argument = click.argument("job", type=JobId(), metavar="JOBID")


@click.command()
@job_argument
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Put it there. Default: where the job was submitted from.",
)
@click.option("--all", "everything", is_flag=True, help="All that it wrote to its home, and not its directory alone.")
@click.option("--force", is_flag=True, help="Replace files that are there already and differ.")
@json_option
@pass_invocation
def fetch(invocation: Invocation, job: str, *, to: Path | None, everything: bool, force: bool) -> None:
    """Bring home what a batch job wrote.

    A job of `berth sbatch --env` works in a copy of the session's home. What it wrote in its working directory comes to
    where it was submitted from, as if it had run there; files that are there already and differ are left alone, and
    named, unless --force is given. JOBID of a job array stands for all its tasks; `42_7` for one.
    """
    from broker.cli.fetch_tree import Clash, fetch_tree

    found = _begun(invocation, job)
    copied: list[str] = []
    clashes: list[Clash] = []
    too_long: list[str] = []
    for environment, begun in found:
        below = Path() if everything else _below_home(begun)
        if below is None:
            continue
        base = Path(environment.base) / below if environment.base else None
        done = fetch_tree(Path(begun.top) / below, to or Path(begun.work or found[0][1].work), base=base, force=force)
        copied += done.copied
        clashes += done.clashes
        too_long += done.too_long
    if invocation.json:
        output.print_json({"copied": copied, "left": [*(clash.path for clash in clashes), *too_long]})
    else:
        for path in copied:
            output.print_line(path)
    if clashes:
        raise ConflictError(
            f"{output.pluralize(len(clashes), 'file')} that differ are there already: "
            + ", ".join(clash.path for clash in clashes[:5]),
            hint="--force replaces them, --to DIRECTORY puts everything elsewhere; all others were brought",
        )
    if too_long:
        raise ConflictError(
            f"{output.pluralize(len(too_long), 'path')} too long to copy, such as {too_long[0][:SHOWN_CHARS]}…",
            hint="--to DIRECTORY puts everything below a shorter path; all others were brought",
        )
    if not invocation.json:
        output.print_note(f"{output.pluralize(len(copied), 'file')} of job {job}")


@click.command()
@job_argument
@click.argument("name", type=SessionName(), metavar="NAME")
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def promote(invocation: Invocation, job: str, name: str, *, no_wait: bool, timeout: float | None) -> None:
    """Make a session of what a batch job has left.

    NAME gets the job's image, the system that it ran with and its home as the job left it, to look into in peace. The
    job must have ended; of a job array name one task, as `42_7`.
    """
    from broker.cli.wait import asking, until_made
    from broker.schema.environments import PromoteRequest

    found = [pair for pair in _begun(invocation, job) if pair[1].key == job]
    if not found:
        raise NotFoundError(f"{job} is a job array", hint=f"name one of its tasks, as `berth promote {job}_1 {name}`")
    environment = found[-1][0]
    with asking(invocation, name, "promote"):
        view = invocation.client.promote(environment.id, PromoteRequest(name=name, job=job))
    if not no_wait:
        view = until_made(invocation, view, timeout=timeout, ready=False)
    if invocation.json:
        output.print_json(view)
    else:
        output.print_note(f"{name} is {'being made' if no_wait else 'there'}; `berth start {name}` starts it")


def _begun(invocation: Invocation, job: str) -> list[tuple[EnvironmentView, BatchJob]]:
    """All that has begun of a job, with its environment; NotFoundError if nothing has."""
    environments = invocation.client.environments()
    number = int(job.partition("_")[0])
    found = [
        (environment, begun)
        for environment in environments
        for begun in environment.jobs
        if _stands_for(job, begun.key)
    ]
    if found:
        return found
    if any(environment.job_id == number for environment in environments):
        raise NotFoundError(f"job {job} has not begun yet", hint=f"`squeue -j {number}` says why it waits")
    raise NotFoundError(
        f"nothing is known of a job {job} in an environment",
        hint="only jobs of `berth sbatch --env` have one, and it is kept for some days after their end",
    )


def _stands_for(job: str, key: str) -> bool:
    """Whether a user who names the job means this too: a task of the array, or what a step wrote on another node."""
    task = key.partition("@")[0]
    return job in {task, task.partition("_")[0]}


def _below_home(begun: BatchJob) -> Path | None:
    """The job's working directory as a path in its home; None for one that the site shows inside: all is there."""
    parts = Path(begun.inside).parts
    return Path(*parts[3:]) if parts[:2] == ("/", "home") else None
