"""`berth clone` and `switch`: copy a session under a new name, or move it to another profile."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument, no_wait_option, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import CloneSource, ProfileName, SessionName, SnapshotReference
from broker.cli.prompts import announce_restart, check_request, yes_option
from broker.errors import InvalidInputError
from broker.text.question import describe_switch_plan

if TYPE_CHECKING:
    from broker.user_input import ProfileReference


@click.command()
@click.argument("name", type=CloneSource(), metavar="[OWNER.]NAME")
@click.argument("new", type=SessionName(), metavar="NEW")
@click.option(
    "--at", type=SnapshotReference(), metavar="SNAPSHOT", help="Copy this snapshot; default: the present state."
)
@click.option(
    "--profile",
    type=ProfileName(),
    metavar="PROFILE[@VERSION]",
    help="Use this profile, without the changes outside the home.",
)
@click.option("--start", is_flag=True, help="Start it with the options of NAME, and wait until it is ready.")
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
    """Create a session with the files of another.

    NEW begins with the files of NAME, or of a snapshot of NAME. Later changes of one do not affect the other. A clone
    is fast and needs disk space only for later changes. NAME may be running and keeps running; see `berth snapshot`.

    OWNER.NAME names a session of another user, who shares a snapshot of it with you: `berth list --shared`. Then give
    --at. The snapshot is copied into your storage, without the owner's keys, tokens, histories and the like.

    \b
      berth clone dev trial --start
      berth clone dev newer --profile triton-xpu@4
      berth clone dev yesterday --at 12
      berth clone alice.dev mine --at 3
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    is_own = "." not in name
    if not is_own and at is None:
        raise InvalidInputError(
            "a clone of another user's session needs a snapshot that is shared with you",
            hint=f"`berth list --shared` lists them; `berth clone {name} {new} --at N`",
        )
    request = {
        "name": new,
        "at": at,
        "profile": profile.name if profile else None,
        "version": profile.version if profile else None,
        "start": start,
    }
    try:
        asked = invocation.post(f"/v1/sessions/{name}/clone", request)
        from broker.cli.wait import show_request_progress, until_made
        from broker.client.answers import parse_answer
        from broker.schema.sessions import SessionView
    except KeyboardInterrupt:
        from broker.cli.errors import InterruptedWaitError

        raise InterruptedWaitError(
            f"interrupted; {new} may still be created", hint="`berth list` shows your sessions"
        ) from None

    with show_request_progress(invocation, new, "clone", source=name if is_own else ""):
        view = parse_answer(SessionView, asked.answer())
        domain = invocation.client.site().domain if start else ""  # now, while Slurm is busy, rather than at the end
    if not no_wait:
        source = invocation.client.read_session(name).id if is_own else ""
        view = until_made(invocation, view, timeout=timeout, ready=start, source=source)
    if profile is not None:
        from broker.cli.channels import note_deprecated_session

        note_deprecated_session(invocation, view)
    if start:
        from broker.cli.commands.start import announce

        announce(invocation, view, domain)
    elif invocation.json:
        output.print_json(view)
    elif no_wait:
        output.print_note(f"{new} is being created")
    else:
        output.print_note(f"{new} was created; `berth start {new}` starts it")


@click.command()
@name_argument
@click.argument("profile", type=ProfileName(), metavar="PROFILE[@VERSION]")
@click.option("--fresh", is_flag=True, help="Begin without changes, even if the session has used the profile before.")
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
    """Switch a session to another profile or version.

    The home stays. Changes outside the home belong to the old profile: they stay in a snapshot, and the command prints
    how to return to it. A session that has used the new profile before gets its changes from then, unless --fresh is
    given.

    A running session is stopped, after a question, and started again under its name. To use two profiles at the same
    time, create a second session with `berth clone --profile`.
    """
    from broker.cli.channels import note_deprecated_profile
    from broker.cli.wait import finish_operation, show_request_progress
    from broker.schema.volumes import SwitchRequest

    request = SwitchRequest(profile=profile.name, version=profile.version, fresh=fresh)
    report = check_request(invocation, name, yes=yes, switch=request)
    note_deprecated_profile(invocation, profile.name, profile.version)
    announce_restart(
        invocation,
        report,
        describe_switch_plan(report.session, profile),
        undone=f"{name} was not switched",
        yes=yes,
    )
    with show_request_progress(invocation, name, "switch"):
        view = invocation.client.switch(name, request)
    finish_operation(invocation, view, f"switched {name} to {profile}", no_wait=no_wait, timeout=timeout)
