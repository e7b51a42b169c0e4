"""`berth clone` and `switch`: copy a session under a new name, or move it to another profile."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument, no_wait_option, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName, ProfileReference, SessionName, SnapshotReference
from broker.cli.prompts import announce_restart, yes_option


@click.command()
@name_argument
@click.argument("new", type=SessionName(), metavar="NEW")
@click.option("--at", type=SnapshotReference(), metavar="SNAPSHOT", help="As it was in this snapshot; default: now.")
@click.option(
    "--profile",
    type=ProfileName(),
    metavar="PROFILE[@VERSION]",
    help="With this profile, and what it brings in place of all that was changed outside the home.",
)
@click.option("--start", is_flag=True, help="Start it too, with the options of NAME, and wait until you can log in.")
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def clone(
    invocation: Invocation,
    name: str,
    new: str,
    *,
    at: str | None,
    profile: ProfileReference | None,
    start: bool,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Make a new session with the files of another.

    NEW begins with all that NAME has, or had in a snapshot; from then on neither sees what the other does. It takes
    no time, and space only for what becomes different. NAME may be running, and goes on; see `berth snapshot`.

    \b
      berth clone dev trial --start
      berth clone dev newer --profile triton-xpu@2
      berth clone dev yesterday --at 12
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    request = {
        "name": new,
        "at": at,
        "profile": profile.name if profile else None,
        "version": profile.version if profile else None,
        "start": start,
    }
    asked = invocation.post(f"/v1/sessions/{name}/clone", request)
    from broker.cli.wait import asking, until_made
    from broker.schema.sessions import SessionView

    with asking(invocation, new, "clone"):
        view = SessionView.model_validate_json(asked.answer())
        domain = invocation.client.site().domain if start else ""  # now, while Slurm is busy, rather than at the end
    if not no_wait:
        view = until_made(invocation, view, timeout=timeout, ready=start)
    if start:
        from broker.cli.commands.start import announce

        announce(invocation, view, domain)
    elif invocation.json:
        output.print_json(view)
    elif no_wait:
        output.print_note(f"{new} is being made")
    else:
        output.print_note(f"{new} is there; `berth start {new}` starts it")


@click.command()
@name_argument
@click.argument("profile", type=ProfileName(), metavar="PROFILE[@VERSION]")
@click.option("--fresh", is_flag=True, help="Begin as the profile is, even if the session has been on it before.")
@yes_option
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def switch(
    invocation: Invocation,
    name: str,
    profile: ProfileReference,
    *,
    fresh: bool,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Give a session another profile, or another version.

    Its home stays. What was changed outside it belongs to the old profile and stays behind, in a snapshot; it is said
    how to go back there. A session that has been on the new one before finds what it changed there then, unless
    --fresh is given.

    A session that runs is stopped for it, after asking, and started again under its name. To work with two profiles
    at once, `berth clone --profile` makes a second session.
    """
    from broker.cli.wait import asking, finish_operation
    from broker.schema.volumes import SwitchRequest

    view = invocation.client.session(name)
    announce_restart(
        invocation,
        view,
        f"from {view.profile}@{view.version} to {profile}, its home stays, and how it is now is kept as a snapshot",
        undone=f"{name} was not switched",
        yes=yes,
    )
    request = SwitchRequest(profile=profile.name, version=profile.version, fresh=fresh)
    with asking(invocation, name, "switch"):
        view = invocation.client.switch(name, request)
    finish_operation(invocation, view, f"{name} is on {profile} now", no_wait=no_wait, timeout=timeout)
