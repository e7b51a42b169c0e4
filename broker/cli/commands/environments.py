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
from broker.cli.params import SessionName, query_for_completion
from broker.errors import ConflictError, NotFoundError
from broker.format import pluralize

if TYPE_CHECKING:
    from broker.cli.fetch_tree import Fetched
    from broker.schema.environments import BatchJob, EnvironmentView

SHOWN_CHARS = 200
"""Characters of a path that is too long, for the error message."""


class JobId(click.ParamType[str]):
    """The id of a batch job with an environment, or of a job array's task as `42_7`; completed with known jobs."""

    name = "job"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[1-9][0-9]{0,9}(_[0-9]{1,9})?", value):
            self.fail(f"{value!r} is neither a job id nor the id of a job array's task such as `42_7`", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [
            CompletionItem(job.key, help=environment.of)
            for environment in query_for_completion(lambda client: client.environments())
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
    help="Copy the files there; default: the directory of the job's submission.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Copy all files that it wrote to its home, not only those in its working directory.",
)
@click.option("--force", is_flag=True, help="Replace existing files that differ.")
@json_option
@pass_invocation
def fetch(invocation: Invocation, job: str, *, to: Path | None, everything: bool, force: bool) -> None:
    """Copy the output of a batch job.

    A job of `berth sbatch --env` works in a copy of the session's home. This command copies the files that the job
    wrote in its working directory to the directory of its submission. Existing files that differ are listed and not
    replaced, unless --force is given. The JOBID of a job array selects all its tasks; `42_7` selects one.
    """
    found = _find_begun_tasks(invocation, job)
    done = _fetch_all(invocation, found, job, to=to, everything=everything, force=force)
    if invocation.json:
        left = [*(clash.path for clash in done.clashes), *done.too_long]
        output.print_json({"copied": done.copied, "left": left})
    else:
        for path in done.copied:
            output.print_line(path)
    if done.clashes:
        raise ConflictError(
            f"{pluralize(len(done.clashes), 'file')} not copied, because another version exists: "
            + ", ".join(clash.path for clash in done.clashes[:5]),
            hint="all other files were copied; --force replaces these, --to DIRECTORY copies to another directory",
        )
    if done.too_long:
        raise ConflictError(
            f"{pluralize(len(done.too_long), 'path')} too long to copy, such as {done.too_long[0][:SHOWN_CHARS]}…",
            hint="all other files were copied; use --to DIRECTORY with a shorter path",
        )
    if not invocation.json:
        output.print_note(f"{pluralize(len(done.copied), 'file')} of job {job}")


def _fetch_all(
    invocation: Invocation,
    found: list[tuple[EnvironmentView, BatchJob]],
    job: str,
    *,
    to: Path | None,
    everything: bool,
    force: bool,
) -> Fetched:
    """Copy the output of all tasks, with progress. InterruptedWaitError after Ctrl-C; what is copied stays."""
    from broker.cli.amounts import OwnAmounts
    from broker.cli.errors import InterruptedWaitError
    from broker.cli.fetch_tree import Fetched, fetch_tree
    from broker.cli.progress import ProgressLine

    done, amounts = Fetched(), OwnAmounts()
    try:
        with ProgressLine(f"copying the files of job {job}", quiet=invocation.json, amounts=amounts):
            for environment, begun in found:
                below = Path() if everything else _below_home(begun)
                if below is None:
                    continue
                base = Path(environment.base) / below if environment.base else None
                target = to or Path(begun.work or found[0][1].work)
                part = fetch_tree(Path(begun.top) / below, target, base=base, force=force, count=amounts.add)
                done.add(part)
    except KeyboardInterrupt:
        raise InterruptedWaitError(
            f"interrupted; {pluralize(amounts.files, 'file')} of job {job} copied",
            hint="the same command copies the others",
        ) from None
    return done


@click.command()
@job_argument
@click.argument("name", type=SessionName(), metavar="NAME")
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def promote(invocation: Invocation, job: str, name: str, *, no_wait: bool, timeout: float | None) -> None:
    """Create a session from a batch job's files.

    NAME gets the job's image and system, and its home as the job left it. The job must have ended; of a job array, give
    one task, such as `42_7`.
    """
    from broker.cli.wait import show_request_progress, until_made
    from broker.schema.environments import PromoteRequest

    found = [pair for pair in _find_begun_tasks(invocation, job) if pair[1].key == job]
    if not found:
        raise NotFoundError(f"{job} is a job array", hint=f"give one of its tasks: `berth promote {job}_1 {name}`")
    environment = found[-1][0]
    with show_request_progress(invocation, name, "promote"):
        view = invocation.client.promote(environment.id, PromoteRequest(name=name, job=job))
    if not no_wait:
        view = until_made(invocation, view, timeout=timeout, ready=False, source=environment.id)
    if invocation.json:
        output.print_json(view)
    else:
        output.print_note(f"{name} {'is being' if no_wait else 'was'} created; `berth start {name}` starts it")


def _find_begun_tasks(invocation: Invocation, job: str) -> list[tuple[EnvironmentView, BatchJob]]:
    """Return the job's tasks that have begun, with their environments; NotFoundError if there are none."""
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
        raise NotFoundError(f"job {job} has not begun yet", hint=f"`squeue -j {number}` shows why it waits")
    raise NotFoundError(
        f"there is no environment of job {job}",
        hint="only jobs of `berth sbatch --env` have one; Berth deletes it some days after their end",
    )


def _stands_for(job: str, key: str) -> bool:
    """Whether the user's `job` includes `key`: the job, a task of its array, or a step on another node."""
    task = key.partition("@")[0]
    return job in {task, task.partition("_")[0]}


def _below_home(begun: BatchJob) -> Path | None:
    """Return the job's working directory relative to its home; None if it is a directory of the site."""
    parts = Path(begun.inside).parts
    return Path(*parts[3:]) if parts[:2] == ("/", "home") else None
