"""`berth up`: bring up the dev container of a repository as a session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SessionName
from broker.cli.resources import ResourceCommand, parse_resources
from broker.cli.stores import profile_errors
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView
    from profiles.devcontainer.plan import DevPlan

_OPTIONS_HINT = "`berth up PATH --mem=16G --time=8:00:00`; sbatch(1) explains the options"


_PATH = "berth.up.path"
"""The key of the repository's path in the context."""


def _take_path(ctx: click.Context, _param: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    """Take the path, which precedes the resource options, out of the words."""
    has_path = bool(words) and not words[0].startswith("-")
    ctx.meta[_PATH] = words[0] if has_path else "."
    return words[1:] if has_path else words


@click.command(cls=ResourceCommand, context_settings={"ignore_unknown_options": True})
@click.option("--config", "chosen", metavar="FILE|FOLDER", help="The devcontainer.json to take, if there are several.")
@click.option("--name", type=SessionName(), metavar="NAME", help="The session's name; default: that of the folder.")
@click.option("--dry-run", is_flag=True, help="Print the report, and do nothing else.")
@click.option("--rebuild", is_flag=True, help="Build the image again, also if nothing has changed.")
@click.option("--frozen-lockfile", is_flag=True, help="Fail if devcontainer-lock.json would have to change.")
@timeout_option
@json_option
@click.argument(
    "resources", nargs=-1, type=click.UNPROCESSED, metavar="[PATH] [SBATCH OPTIONS]...", callback=_take_path
)
@pass_invocation
@click.pass_context
def up(
    ctx: click.Context,
    invocation: Invocation,
    resources: tuple[str, ...],
    *,
    chosen: str | None,
    name: str | None,
    dry_run: bool,
    rebuild: bool,
    frozen_lockfile: bool,
    timeout: float | None,
) -> None:
    """Bring up the dev container of a repository as a session.

    PATH is the repository, by default the current directory: its .devcontainer/devcontainer.json says what the session
    is made of. The command prints a report of what it takes, changes and ignores, builds an image in your own
    store if anything that the build reads has changed, starts the session, runs the commands of the file in it, and
    prints how to log in.

    The session has the name of the folder; one of that name that was not made from this folder is refused. A stopped
    session is moved to the new image; a running one is left alone.
    If the site lets sessions see the folder, the session has it at the same path. Otherwise it gets a copy, once.

    After PATH, resource options as for sbatch override those of the file:

    \b
      berth up
      berth up ~/src/solver --gres=gpu:1 --mem=16G

    Commands that fail end the run; the next `berth up` runs them again.
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    path = _repository(ctx.meta[_PATH])
    own = parse_resources(resources, hint=_OPTIONS_HINT)
    with profile_errors():
        from broker.cli.dev_build import built_image, plan_of, plan_of_image
        from broker.cli.dev_report import note_findings, note_report, print_report, report_json

        plan = plan_of(invocation, path, chosen)
        if dry_run:
            if invocation.json:
                output.print_json({"name": plan.name, "version": plan.version, "report": report_json(plan)})
            else:
                print_report(plan)
            return
        if not invocation.json:
            note_report(plan)
        from broker.cli.dev_session import DevSession, find_dev_session, start_dev_session

        session = name or plan.name
        find_dev_session(invocation, session, plan)  # refuse before anything is built
        version, built = built_image(invocation, plan, rebuild=rebuild, frozen=frozen_lockfile)
        before = plan
        plan = plan_of_image(invocation, replace(plan, version=version))
        if not invocation.json:
            note_findings([each for each in plan.findings if each not in before.findings])
    from broker.cli.commands.start import begin

    def request_start(request: dict[str, object]) -> SessionView:
        return begin(invocation, session, {"options": _options(invocation, plan, own), **request})

    view, is_current = start_dev_session(invocation, session, plan, request_start, timeout=timeout)
    hooks: list[str] = []
    services: list[str] = []
    if is_current:
        running = DevSession(invocation, view, plan)
        running.prepare()
        services = running.publish_ports()
        hooks = running.run_hooks()
    else:
        take = f"`berth stop {session}` and `berth up` take the new one"
        output.print_note(f"{session} runs on with its older image {view.version}; {take}")
    _announce(invocation, plan, view, {"built": built, "hooks": hooks, "services": services})


def _repository(path: str) -> Path:
    """Return the repository. InvalidInputError if it does not exist."""
    place = Path(path).absolute()
    if not place.exists():
        raise InvalidInputError(f"{path} does not exist", hint="PATH is the folder of a repository")
    return place


def _options(invocation: Invocation, plan: DevPlan, own: list[str]) -> list[str]:
    """Return the session's options: those of the command line override those of the file."""
    from slurm.sbatch import OptionError, merge_options

    wanted = dict(plan.session.options)
    if plan.session.wants_gpu and _has_gpu(invocation):
        wanted["gres"] = "gpu:1"
    words = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in wanted.items()]
    try:
        return merge_options(parse_resources(words, hint=f"they are in {plan.config.file}"), own)
    except OptionError as error:
        raise InvalidInputError(str(error), hint=_OPTIONS_HINT) from error


def _has_gpu(invocation: Invocation) -> bool:
    """Whether a node of the cluster has a GPU."""
    nodes = invocation.client.cluster().nodes
    return any(gres.name == "gpu" and gres.total for node in nodes for gres in node.gres)


def _announce(invocation: Invocation, plan: DevPlan, view: SessionView, more: dict[str, object]) -> None:
    """Print how to log in, and the link that opens the repository in VS Code."""
    from broker.cli.commands.start import announce
    from broker.client.ssh_config import login_command
    from broker.text.ide_links import LINKS

    domain = invocation.client.site().domain
    link = LINKS["vscode"](f"{view.name}.{domain}", view.owner, plan.config.inside)
    if invocation.json:
        from broker.cli.dev_report import report_json

        image = {"profile": plan.name, "version": plan.version, "report": report_json(plan)}
        login = {"ssh": login_command(view.name, domain), "vscode": link, "folder": plan.config.inside}
        output.print_json({"session": view.model_dump(mode="json"), **image, **more, **login})
        return
    announce(invocation, view, domain)
    output.print_line(link)
