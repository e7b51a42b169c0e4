"""`berth start`: hand the session to Slurm and stay with the user until they can log in."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from broker.cli import output
from broker.cli.arguments import ProfileName, ProfileReference
from broker.cli.invocation import Invocation, json_option, pass_invocation
from broker.cli.sessions import name_argument, no_wait_option, timeout_option
from broker.errors import BerthError, ConflictError, InvalidInputError

if TYPE_CHECKING:
    from broker.client import Client
    from broker.schema import SessionView

LOG_LINES = 5
"""How many of the log's last lines come with the news that a session failed."""


@click.command(context_settings={"ignore_unknown_options": True})
@name_argument
@click.option(
    "--profile",
    type=ProfileName(),
    metavar="PROFILE[@VERSION]",
    help="What a new session is made of; without VERSION, the newest. A session that exists keeps its own.",
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
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Start a session and wait until you can log in.

    It may be new or stopped. After NAME, sbatch's resource options are taken as sbatch takes them:

    \b
      berth start dev --profile triton-xpu --gres=gpu:intel:1 --mem 16G -t 8:00:00

    Ctrl-C leaves the session starting. A session that is on its way or ready already is left as it is; asking for
    another profile or other options then is a conflict, exit code 5.
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.cli.failures import InterruptedWaitError

    request = {
        "profile": profile.name if profile else None,
        "version": profile.version if profile else None,
        "options": _options(resources),
    }
    try:
        view = _ask(invocation, name, request)
        already = view.state.value == "ready"
        domain = invocation.client.site().domain  # asked for now, while Slurm is busy, rather than at the end
        if not no_wait:
            view = _until_ready(invocation, view, timeout)
    except KeyboardInterrupt:
        raise InterruptedWaitError(
            f"interrupted; {name} goes on starting",
            hint=f"`berth show {name}` says how far it is, `berth stop {name}` ends it",
        ) from None
    _announce(invocation, view, domain, already=already)


def _ask(invocation: Invocation, name: str, request: dict[str, Any]) -> SessionView:
    """Send the request, and only then load what reads the answer: the controller needs that time as well."""
    import json

    from broker import wire

    asked = wire.ask(invocation.api_socket, "POST", f"/v1/sessions/{name}/start", json.dumps(request))
    from broker.schema import SessionView

    return SessionView.model_validate_json(asked.answer())


def _options(words: tuple[str, ...]) -> list[str]:
    from slurm.sbatch import OptionError, parse_options

    try:
        return parse_options(words)
    except OptionError as error:
        raise InvalidInputError(
            str(error), hint="`berth start NAME --profile PROFILE [SBATCH OPTIONS]`; sbatch(1) explains them"
        ) from error


def _until_ready(invocation: Invocation, view: SessionView, timeout: float | None) -> SessionView:
    from broker.cli.describe import state_line
    from broker.cli.progress import Progress, follow
    from broker.schema import SessionState

    on_the_way = (SessionState.SUBMITTING, SessionState.QUEUED, SessionState.STARTING)
    with Progress(quiet=invocation.json) as progress:
        for latest in follow(invocation.client, view, timeout=timeout):
            if latest.state is SessionState.READY:
                return latest
            if latest.state is SessionState.FAILED:
                break
            if latest.state not in on_the_way:
                because = f": {latest.reason}" if latest.reason else ""
                raise ConflictError(f"{view.name} did not become ready, it is {latest.state}{because}")
            progress.show(state_line(latest))
    raise _failed(invocation, latest)


def _failed(invocation: Invocation, view: SessionView) -> BerthError:
    """The failure with its reason; the end of the log goes before it, where there is one."""
    if not invocation.json:
        for line in _log_end(invocation.client, view.name):
            output.narrate(f"  | {line}")
    return BerthError(
        f"{view.name} failed: {view.reason or view.outcome or 'its job ended'}",
        hint=f"`berth logs {view.name}` has the job's log; `berth start {view.name}` tries again",
    )


def _log_end(client: Client, name: str) -> list[str]:
    try:
        return client.log(name, tail=4096).splitlines()[-LOG_LINES:]
    except BerthError:
        return []


def _announce(invocation: Invocation, view: SessionView, domain: str, *, already: bool) -> None:
    from broker.cli.describe import state_line
    from broker.schema import SessionState

    if invocation.json:
        output.show_json(view)
        return
    if view.state is not SessionState.READY:
        output.narrate(state_line(view))
        return
    runs = "runs already" if already else "is ready"
    where = f" on {view.endpoint.node}" if view.endpoint else ""
    left = f"; its job ends {output.clock(view.ends_at)}" if view.ends_at is not None else ""
    output.narrate(f"{view.name} {runs}{where}{left}")
    output.data(f"ssh {view.name}.{domain}")
