"""`berth start`: submit a session's job, and wait until the user can log in."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument, no_wait_option, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import Kept, ProfileName, ProfileReference, persistence_of
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView


@click.command(context_settings={"ignore_unknown_options": True})
@name_argument
@click.option(
    "--profile",
    type=ProfileName(),
    metavar="PROFILE[@VERSION]",
    help="What a new session is made of; without VERSION, the newest. A session that exists keeps its own.",
)
@click.option(
    "--keep",
    type=Kept(),
    metavar="PATH|home|system",
    multiple=True,
    help="Keep this over a stop: the home, the system (all outside it), or a path. May be repeated.",
)
@click.option(
    "--fresh",
    type=Kept(),
    metavar="PATH|home|system",
    multiple=True,
    help="Take this from the profile at each start instead. May be repeated.",
)
@click.option(
    "--from-script",
    "script",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Take the options of this script's #SBATCH lines, as far as a session can have them.",
)
@no_wait_option
@timeout_option
@json_option
@click.argument("resources", nargs=-1, type=click.UNPROCESSED, metavar="[SBATCH OPTIONS]...")
@pass_invocation
def start(
    invocation: Invocation,
    name: str,
    profile: ProfileReference | None,
    resources: tuple[str, ...],
    *,
    keep: tuple[str, ...],
    fresh: tuple[str, ...],
    script: Path | None,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Start a session and wait until you can log in.

    It may be new or stopped. After NAME, sbatch's resource options are taken as sbatch takes them:

    \b
      berth start dev --profile triton-xpu --gres=gpu:intel:1 --mem 16G -t 8:00:00

    What it keeps over a stop is what its profile says, and without a word in the profile everything. --keep and
    --fresh say it for this session, from this start on and instead of all that the profile says: what is not named
    is kept.

    \b
      berth start dev --fresh system --keep /opt/cache --fresh ~/.config/app

    A batch script becomes a session with --from-script. As with sbatch, an option on the command line counts over the
    same one in an SBATCH_ variable, and that over the script's; for a new session the variables count without a script
    too. What a session cannot have, such as --output, is left out and named.

    Ctrl-C leaves the session starting. A session that is on its way or ready already is left as it is; asking for
    another profile, other options or other --keep and --fresh then is a conflict, exit code 5.
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    options, defaults = _options(resources, script)
    request = {
        "profile": profile.name if profile else None,
        "version": profile.version if profile else None,
        "options": options,
        "persistence": persistence_of(keep, fresh),
    } | ({"defaults": defaults} if defaults else {})
    try:
        asked = invocation.post(f"/v1/sessions/{name}/start", request)
        from broker.schema.sessions import SessionView

        view = SessionView.model_validate_json(asked.answer())
        already = view.state.value == "ready"
        domain = invocation.client.site().domain  # asked for now, while Slurm is busy, rather than at the end
        if not no_wait:
            from broker.cli.wait import until_ready

            view = until_ready(invocation, view, timeout=timeout)
    except KeyboardInterrupt:
        from broker.cli.wait import interrupted_start

        raise interrupted_start(name) from None
    announce(invocation, view, domain, already=already)


def _options(words: tuple[str, ...], script: Path | None) -> tuple[list[str], list[str]]:
    """What is asked for, and what the environment asks for beside that."""
    from slurm.sbatch import OptionError, merge_options, parse_options

    try:
        own = parse_options(words)
        if script is None and not any(name.startswith("SBATCH_") for name in os.environ):
            return own, []
        from slurm.sources import of_environment, of_script

        variables = of_environment(os.environ).options
        if script is None:
            return own, variables
        said = of_script(script.read_bytes())
        for name, reason in said.left_out.items():
            output.print_note(f"{script.name}: --{name} is left out: {reason}")
        return merge_options(merge_options(said.options, variables), own), []
    except OptionError as error:
        raise InvalidInputError(
            str(error), hint="`berth start NAME --profile PROFILE [SBATCH OPTIONS]`; sbatch(1) explains them"
        ) from error


def announce(invocation: Invocation, view: SessionView, domain: str, *, already: bool = False) -> None:
    """Say that the session is ready, or how far it is, and the way in."""
    from broker.cli.session_text import state_line
    from broker.format import format_time
    from broker.schema.sessions import SessionState

    if invocation.json:
        output.print_json(view)
        return
    if view.state is not SessionState.READY:
        output.print_note(state_line(view))
        return
    runs = "runs already" if already else "is ready"
    where = f" on {view.endpoint.node}" if view.endpoint else ""
    left = f"; the job ends at {format_time(view.ends_at)}" if view.ends_at is not None else ""
    output.print_note(f"{view.name} {runs}{where}{left}")
    output.print_line(f"ssh {view.name}.{domain}")
