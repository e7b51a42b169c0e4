"""`berth share`, `unshare`, `shares` and `leave`: let other users operate a session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import GranteeName, PlainText, SessionName, SessionReference
from broker.cli.time_params import PointInTime

if TYPE_CHECKING:
    from broker.schema.grants import GrantView

HEADINGS = ("NAME", "WITH", "ROLE", "SINCE", "UNTIL")

_MAX_ROLE_CHARS = 39
grantee_argument = click.argument("grantee", type=GranteeName(), metavar="USER|@GROUP")


@click.command()
@name_argument
@grantee_argument
@click.option(
    "--role",
    type=PlainText("a role such as operate", _MAX_ROLE_CHARS),
    required=True,
    metavar="ROLE",
    help="What they may do: `operate`.",
)
@click.option("--until", type=PointInTime(), metavar="TIME", help="End the grant at this time, such as 18:00 or 3d.")
@json_option
@pass_invocation
def share(invocation: Invocation, name: str, grantee: str, *, role: str, until: float | None) -> None:
    """Let another user or a Unix group operate a session.

    With the role `operate`, they see the session's state, log, events and jobs, and can start, stop and extend it, and
    take snapshots: `berth stop OWNER.NAME`. They can never log in, run a command, or reach its files and services.
    The session's events name them.

    Another grant to the same user or group replaces the earlier one.

    \b
      berth share dev bob --role operate
      berth share dev @physics --role operate --until 2026-12-24T18:00
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.schema.grants import ShareRequest

    grant = invocation.client.share(name, grantee, ShareRequest(role=role, until=until))
    if invocation.json:
        output.print_json(grant)
    else:
        output.print_note(f"{name} is shared with {grantee}, role {grant.role}{_until(grant, time.time())}")


@click.command()
@name_argument
@grantee_argument
@json_option
@pass_invocation
def unshare(invocation: Invocation, name: str, grantee: str) -> None:
    """End the sharing of a session with a user or group.

    They have no access from then on. What they have started continues.
    """
    grant = invocation.client.unshare(name, grantee)
    if invocation.json:
        output.print_json(grant)
    else:
        output.print_note(f"{name} is no longer shared with {grantee}")


@click.command()
@click.argument("name", type=SessionName(), metavar="[NAME]", required=False)
@json_option
@pass_invocation
def shares(invocation: Invocation, name: str | None) -> None:
    """List with whom your sessions are shared.

    All sessions, or the one with this NAME. `berth list --shared` lists the sessions of others that are shared with
    you.
    """
    grants = invocation.client.grants(name)
    if invocation.json:
        output.print_json({"grants": [grant.model_dump(mode="json") for grant in grants]})
    elif grants:
        now = time.time()
        output.print_table(HEADINGS, [_row(grant, now) for grant in grants])
    else:
        output.print_note("You share no session." if name is None else f"{name} is not shared.")


@click.command()
@click.argument("name", type=SessionReference(), metavar="OWNER.NAME")
@json_option
@pass_invocation
def leave(invocation: Invocation, name: str) -> None:
    """Give up your access to a session of another user.

    Only its owner can give it back. A grant to a group of yours stays: it is for all members.
    """
    left = invocation.client.leave(name)
    if invocation.json:
        output.print_json(left)
    else:
        output.print_note(f"you have left {name}")


def _row(grant: GrantView, now: float) -> tuple[str, ...]:
    from broker.format import format_time

    until = "" if grant.until is None else format_time(grant.until, now)
    ended = grant.until is not None and grant.until <= now
    return (
        grant.session,
        grant.grantee,
        grant.role,
        format_time(grant.granted_at, now),
        f"{until} (expired)" if ended else until,
    )


def _until(grant: GrantView, now: float) -> str:
    from broker.format import format_time

    return "" if grant.until is None else f", until {format_time(grant.until, now)}"
