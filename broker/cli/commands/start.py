"""`berth start`: submit a session's job, and wait until the user can log in."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import no_wait_option, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import Kept, ProfileName, persistence_of
from broker.cli.resources import NameOrResource, ResourceCommand, parse_resources, split_names
from broker.cli.several import all_option, apply_to_each, print_views, raise_failures, selected_names
from broker.errors import BerthError, InvalidInputError
from broker.user_input import default_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.schema.sessions import SessionView
    from broker.user_input import ProfileReference


MAX_SCRIPT_BYTES = 4 * 2**20
"""Slurm's default limit, max_script_size (slurm.conf(5)); /dev/zero would have no end."""

_OPTIONS_HINT = "`berth start NAME --profile PROFILE --mem=16G --time=8:00:00`; sbatch(1) explains the options"


@click.command(cls=ResourceCommand, context_settings={"ignore_unknown_options": True})
@click.option(
    "--profile",
    type=ProfileName(),
    metavar="PROFILE[@VERSION|@CHANNEL]",
    help="The profile of a new session; default: stable, or else the newest. An existing session keeps its own.",
)
@click.option(
    "--keep",
    type=Kept(),
    metavar="PATH|home|system",
    multiple=True,
    help="Keep this after a stop: the home, the system (everything outside the home), or a path. May be repeated.",
)
@click.option(
    "--fresh",
    type=Kept(),
    metavar="PATH|home|system",
    multiple=True,
    help="Reset this to the profile at each start. May be repeated.",
)
@click.option(
    "--from-script",
    "script",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Use the options of this script's #SBATCH lines that sessions support.",
)
@click.option(
    "--reset-options",
    is_flag=True,
    help="Start from the profile's options: drop those that the session was started with.",
)
@no_wait_option
@timeout_option
@json_option
@all_option("stopped")
@click.argument("words", nargs=-1, type=NameOrResource(), metavar="NAME... [SBATCH OPTIONS]...")
@pass_invocation
@click.pass_context
def start(
    ctx: click.Context,
    invocation: Invocation,
    words: tuple[str, ...],
    profile: ProfileReference | None,
    *,
    every: bool,
    keep: tuple[str, ...],
    fresh: tuple[str, ...],
    script: Path | None,
    reset_options: bool,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Start a session and wait until it is ready.

    The session may be new or stopped; several are started together. After NAME, give resource options as for sbatch:

    \b
      berth start dev --profile triton-xpu --gres=gpu:intel:1 --mem 16G -t 8:00:00

    A stopped session keeps its options: those of the command line replace the ones of the same name. --reset-options
    starts from the profile's.

    Times and sizes may also be written as 4h, 1h30m, 2d, 16GB or 1.5G. As in Slurm, a bare number is minutes or MiB.

    By default, the profile decides what is kept after a stop; without a rule in the profile, everything is kept. --keep
    and --fresh replace the profile's rules for this session, from this start on; paths that are not named are kept.

    \b
      berth start dev --fresh system --keep /opt/cache --fresh ~/.config/app

    --from-script uses the options of a batch script. As with sbatch, the command line has precedence over SBATCH_
    variables, and these over the script; for a new session, the variables apply without a script, too. Options that
    sessions do not support, such as --output, are left out with a message.

    Ctrl-C ends only the wait. A session that is starting or ready is not changed: another profile, other options, or
    other --keep and --fresh are a conflict then, exit code 5.
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.cli.channels import note_deprecated_session
    from broker.text.session import ENDED

    names, resources = split_names(words, ctx)
    options, defaults = _options(resources, script)
    request: dict[str, object] = {
        "profile": profile.name if profile else None,
        "version": profile.version if profile else None,
        "options": options,
        "persistence": persistence_of(keep, fresh),
    }
    if defaults:
        request["defaults"] = defaults
    if reset_options:
        request["reset_options"] = True
    chosen = selected_names(invocation, names, ENDED, every=every)
    failed: list[BerthError] = []
    views = {view.name: view for view in apply_to_each(chosen, lambda name: begin(invocation, name, request), failed)}
    ready = {name for name, view in views.items() if view.state.value == "ready"}
    # While Slurm works, so that the user need not wait for it later.
    domain = invocation.client.site().domain if views else ""
    started = list(views.values())
    for view in started:
        note_deprecated_session(invocation, view)
    import_module("broker.client.ssh_config")  # for `announce`
    if not no_wait:
        from broker.cli.wait import until_ready

        started = apply_to_each(list(views), lambda name: until_ready(invocation, views[name], timeout=timeout), failed)
    for view in [] if invocation.json else started:
        announce(invocation, view, domain, already=view.name in ready)
    print_views(invocation, started, single=len(chosen) == 1)
    raise_failures(failed, len(chosen))


def begin(invocation: Invocation, name: str, request: Mapping[str, object]) -> SessionView:
    """Request the start of a session, and return it."""
    try:
        asked = invocation.post(f"/v1/sessions/{name}/start", request)
        from broker.client.answers import parse_answer
        from broker.schema.sessions import SessionView

        return parse_answer(SessionView, asked.answer())
    except KeyboardInterrupt:
        from broker.cli.wait import interrupted_start

        raise interrupted_start(name) from None


def _options(words: Sequence[str], script: Path | None) -> tuple[list[str], list[str]]:
    """Return the requested options, and the default options of the environment's SBATCH_ variables."""
    from slurm.sbatch import OptionError, merge_options

    own = parse_resources(words, hint=_OPTIONS_HINT)
    try:
        variables = default_options(os.environ)
        if script is None:
            return own, variables
        from slurm.sources import options_from_script

        read = options_from_script(_read_script(script))
        for name, reason in read.left_out.items():
            output.print_note(f"{script.name}: --{name} is left out: {reason}")
        return merge_options(merge_options(read.options, variables), own), []
    except OptionError as error:
        raise InvalidInputError(str(error), hint=_OPTIONS_HINT) from error


def _read_script(script: Path) -> bytes:
    with script.open("rb") as file:
        text = file.read(MAX_SCRIPT_BYTES + 1)
    if len(text) > MAX_SCRIPT_BYTES:
        raise InvalidInputError(
            f"{script} has more than 4 MiB", hint="sbatch takes no larger script; use a smaller one"
        )
    return text


def announce(invocation: Invocation, view: SessionView, domain: str, *, already: bool = False) -> None:
    """Print the session's state and, if it is ready, the command that logs in."""
    from broker.client.ssh_config import login_command
    from broker.format import format_time
    from broker.schema.sessions import SessionState
    from broker.text.session import state_line

    if invocation.json:
        output.print_json(view)
        return
    if view.state is not SessionState.READY:
        output.print_note(state_line(view))
        return
    runs = "already runs" if already else "is ready"
    where = f" on {view.endpoint.node}" if view.endpoint else ""
    left = f"; the job ends at {format_time(view.ends_at)}" if view.ends_at is not None else ""
    output.print_note(f"{view.name} {runs}{where}{left}")
    if "." not in view.name:  # a guest cannot log in
        output.print_line(login_command(view.name, domain))
