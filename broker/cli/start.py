"""`berth start`: hand the session to Slurm and stay with the user until they can log in."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.arguments import Kept, ProfileName, ProfileReference, persistence_of
from broker.cli.invocation import Invocation, json_option, pass_invocation
from broker.cli.sessions import name_argument, no_wait_option, timeout_option
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from broker.schema import SessionView


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

    Ctrl-C leaves the session starting. A session that is on its way or ready already is left as it is; asking for
    another profile, other options or other --keep and --fresh then is a conflict, exit code 5.
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    request = {
        "profile": profile.name if profile else None,
        "version": profile.version if profile else None,
        "options": _options(resources),
        "persistence": persistence_of(keep, fresh),
    }
    try:
        asked = invocation.post(f"/v1/sessions/{name}/start", request)
        from broker.schema import SessionView

        view = SessionView.model_validate_json(asked.answer())
        already = view.state.value == "ready"
        domain = invocation.client.site().domain  # asked for now, while Slurm is busy, rather than at the end
        if not no_wait:
            from broker.cli.waiting import until_ready

            view = until_ready(invocation, view, timeout=timeout)
    except KeyboardInterrupt:
        from broker.cli.waiting import interrupted_start

        raise interrupted_start(name) from None
    announce(invocation, view, domain, already=already)


def _options(words: tuple[str, ...]) -> list[str]:
    from slurm.sbatch import OptionError, parse_options

    try:
        return parse_options(words)
    except OptionError as error:
        raise InvalidInputError(
            str(error), hint="`berth start NAME --profile PROFILE [SBATCH OPTIONS]`; sbatch(1) explains them"
        ) from error


def announce(invocation: Invocation, view: SessionView, domain: str, *, already: bool = False) -> None:
    """Say that the session is ready, or how far it is, and the way in."""
    from broker.cli.describe import state_line
    from broker.schema import SessionState
    from broker.words import clock

    if invocation.json:
        output.show_json(view)
        return
    if view.state is not SessionState.READY:
        output.narrate(state_line(view))
        return
    runs = "runs already" if already else "is ready"
    where = f" on {view.endpoint.node}" if view.endpoint else ""
    left = f"; its job ends {clock(view.ends_at)}" if view.ends_at is not None else ""
    output.narrate(f"{view.name} {runs}{where}{left}")
    output.data(f"ssh {view.name}.{domain}")
