"""`berth list`, `show`, `stop` and `delete`."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.arguments import SessionName
from broker.cli.invocation import Invocation, json_option, pass_invocation
from broker.errors import BerthError, ConflictError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from broker.schema import SessionView

name_argument = click.argument("name", type=SessionName(), metavar="NAME")

no_wait_option = click.option("--no-wait", is_flag=True, help="Return at once; it goes on by itself.")

timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Wait no longer than this; it goes on all the same. Exit code 8.",
)


@click.command("list")
@json_option
@pass_invocation
def list_sessions(invocation: Invocation) -> None:
    """List your sessions.

    NODE/REASON is where a ready session runs, and why another one waits or ended. A question mark after the state:
    Slurm does not answer, so this is how it was.
    """
    from broker.cli.describe import HEADINGS, row, stale

    views = invocation.client.sessions()
    if invocation.json:
        output.show_json({"sessions": [view.model_dump(mode="json") for view in views]})
        return
    if not views:
        output.narrate("You have no sessions. `berth start NAME --profile PROFILE` starts one.")
        return
    now = time.time()
    output.table(HEADINGS, [row(view, now) for view in views])
    outdated = [view for view in views if view.stale_since is not None]
    if outdated:
        output.narrate(f"berth: {stale(outdated[0], now).strip(' ()')}")


@click.command()
@name_argument
@json_option
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show everything about a session.

    Its state and why, its job, times and resources, and how its last job ended.
    """
    from broker.cli.describe import page

    view = invocation.client.session(name)
    if invocation.json:
        output.show_json(view)
        return
    output.data(view.name)
    for title, text in page(view, invocation.client.site().domain, time.time()):
        output.data(f"  {title:<9} {text}")


@click.command()
@name_argument
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def stop(invocation: Invocation, name: str, *, no_wait: bool, timeout: float | None) -> None:
    """End a session's job and keep its files.

    `berth start NAME` brings it back. Returns when the job has ended and the session can be started again. A
    session that is stopped already is fine.
    """
    from broker.cli.describe import ENDED

    view = invocation.client.stop(name)
    if not no_wait:
        view = _until_ended(invocation, view, timeout)
    if invocation.json:
        output.show_json(view)
    else:
        output.narrate(f"{name} is {'stopped' if view.state in ENDED else 'stopping'}; its files are kept")


def _until_ended(invocation: Invocation, view: SessionView, timeout: float | None) -> SessionView:
    from broker.cli.describe import ENDED, state_line
    from broker.cli.failures import InterruptedWaitError
    from broker.cli.progress import Progress, follow
    from broker.schema import SessionState

    try:
        with Progress(quiet=invocation.json) as progress:
            for latest in follow(invocation.client, view, timeout=timeout):
                if latest.state in ENDED:
                    return latest
                if latest.state is not SessionState.STOPPING:
                    raise ConflictError(f"{view.name} is not being stopped any more: it is {latest.state}")
                progress.show(state_line(latest))
    except KeyboardInterrupt:
        raise InterruptedWaitError(f"interrupted; {view.name} goes on stopping") from None
    raise AssertionError("follow never ends")  # pragma: no cover


@click.command()
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal to ask at.")
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def delete(invocation: Invocation, name: str, *, yes: bool, no_wait: bool, timeout: float | None) -> None:
    """Delete a stopped session and everything in it, for good."""
    from broker.cli.describe import ENDED

    view = invocation.client.session(name)
    if view.state not in ENDED:
        raise ConflictError(
            f"{name} cannot be deleted while it is {view.state}", hint=f"`berth stop {name}` ends its job first"
        )
    if not yes and not _confirmed(name):
        raise BerthError(f"{name} was not deleted")
    view = invocation.client.delete(name)
    if not no_wait:
        _until_gone(invocation, view, timeout)
    if invocation.json:
        output.show_json({"deleted": name, "id": view.id, "complete": not no_wait})
    else:
        output.narrate(f"{name} is {'being deleted' if no_wait else 'deleted'}")


def _confirmed(name: str) -> bool:
    if not sys.stdin.isatty():
        raise InvalidInputError(
            f"{name} was not deleted: there is no terminal to ask at", hint="--yes deletes without asking"
        )
    return click.confirm(f"Delete {name} and every file in it, for good?", err=True)


def _until_gone(invocation: Invocation, view: SessionView, timeout: float | None) -> None:
    from broker.cli.describe import state_line
    from broker.cli.failures import InterruptedWaitError
    from broker.cli.progress import Progress, follow
    from broker.schema import SessionState

    try:
        with Progress(quiet=invocation.json) as progress:
            for latest in follow(invocation.client, view, timeout=timeout):
                if latest.state is SessionState.DELETED or latest.id != view.id:
                    return
                progress.show(state_line(latest))
    except NotFoundError:
        return
    except KeyboardInterrupt:
        raise InterruptedWaitError(f"interrupted; {view.name} goes on being deleted") from None
