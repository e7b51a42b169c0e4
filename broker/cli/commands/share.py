"""`berth share`, `unshare`, `shares` and `leave`: give other users a part in a session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import (
    GranteeName,
    PlainText,
    SessionName,
    SharedName,
    SharedServiceName,
    SnapshotReference,
)
from broker.cli.prompts import confirm, yes_option
from broker.cli.shared_content import show_content
from broker.cli.time_params import PointInTime
from broker.errors import BerthError, InvalidInputError

if TYPE_CHECKING:
    from broker.schema.grants import EndedGrants, GrantView

_MAX_ROLE_CHARS = 39
grantee_argument = click.argument("grantee", type=GranteeName(), metavar="USER|@GROUP")
snapshot_option = click.option(
    "--snapshot", type=click.IntRange(min=1), metavar="NUMBER", help="End it for this snapshot alone."
)
service_option = click.option(
    "--service", type=SharedServiceName(), metavar="SERVICE", help="End it for this service alone."
)


@click.command()
@name_argument
@grantee_argument
@click.option(
    "--role",
    type=PlainText("a role such as watch", _MAX_ROLE_CHARS),
    metavar="ROLE",
    help="Let them `operate`, `watch` or `use` the session, or `pair` with you.",
)
@click.option(
    "--service", type=SharedServiceName(), metavar="SERVICE", help="Let them open this service, and nothing else."
)
@click.option(
    "--snapshot", type=SnapshotReference(), metavar="SNAPSHOT", help="Let them clone this snapshot, and nothing else."
)
@click.option("--until", type=PointInTime(), metavar="TIME", help="End the grant at this time, such as 18:00 or 3d.")
@click.option("--dry-run", is_flag=True, help="With --snapshot: show what they would get, and share nothing.")
@yes_option
@json_option
@pass_invocation
def share(
    invocation: Invocation,
    name: str,
    grantee: str,
    *,
    role: str | None,
    service: str | None,
    snapshot: str | None,
    until: float | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Give another user or a Unix group a part in a session.

    They act under their own name. Give one of --role, --service and --snapshot. A site has to switch on the roles
    `pair` and `use`, and --service.

    With the role `operate`, they see the session's state, log, events and jobs, and can start, stop and extend it, and
    take snapshots: `berth stop OWNER.NAME`.

    With the role `watch`, they see the session's state, and the terminals in which you have run `berth-show`:
    `berth ssh OWNER.NAME`. Nothing that they type reaches the session.

    With the role `pair`, they also type in these terminals, while you are there: F12 gives them the keyboard, and takes
    it back.

    With the role `use`, they work in the session as you: they can read and change your files, and do all that you can
    do there. The command asks first; with --yes it does not.

    With --service, they can open that service in a browser: `berth open OWNER.NAME SERVICE`, or the portal. They see
    nothing else of the session. This needs web access, and the role `port`. A service that is a shell, such as a
    terminal or a notebook, cannot be shared: they could run any command as you. A port of `berth forward` can be
    shared, as `port-8000`.

    With --snapshot, they can make a session of their own from that snapshot: `berth clone OWNER.NAME NEW --at N`. Keys,
    tokens, histories, cookies, agents and the state of editors are left out. The command shows what they get and what
    is left out, and asks. What they have cloned is theirs, also after `berth unshare`.

    A user or group has one of the roles at a time: the later one replaces the earlier one. Services and
    snapshots are in addition. The session's events name the guests who use them.

    \b
      berth share dev bob --role watch --until 18:00
      berth share dev @physics --role operate --until 2026-12-24T18:00
      berth share dev bob --service port-8000
      berth share dev bob --snapshot 3
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.schema.grants import ShareRequest
    from broker.text.sharing import describe_shared

    role = _role_of(role, service, snapshot)
    if snapshot is None and (dry_run or (yes and role != "use")):
        raise InvalidInputError(
            "--dry-run is for --snapshot, and --yes also for the role use",
            hint="the other roles are shared without a question",
        )
    if role == "use":
        risk = f"{grantee} will work as you in {name}: read and change your files, and run any command."
        confirm(f"{risk} Share it?", undone=f"{name} was not shared", yes=yes)
    if snapshot is not None:
        if dry_run or not invocation.json:
            show_content(invocation, name, grantee, snapshot, is_result=dry_run)
        if dry_run:
            return
        undone = f"snapshot {snapshot} of {name} was not shared"
        confirm(f"Share snapshot {snapshot} of {name} with {grantee}?", undone=undone, yes=yes)
    request = ShareRequest(role=role, until=until, snapshot=snapshot, service=service)
    grant = invocation.client.share(name, grantee, request)
    if invocation.json:
        output.print_json(grant)
        return
    how = f", role {grant.role}" if grant.snapshot is None and grant.service is None else ""
    what = describe_shared(name, grant.snapshot, grant.service)
    output.print_note(f"{what} is shared with {grantee}{how}{_until(grant, time.time())}")


def _role_of(role: str | None, service: str | None, snapshot: str | None) -> str:
    """Return the role to grant. InvalidInputError unless the options name one thing to share."""
    objects = {"port": service, "snapshot": snapshot}
    implied = [word for word, given in objects.items() if given is not None]
    named = {role, *implied} - {None}
    if len(named) != 1 or (role in objects and not implied):
        raise InvalidInputError(
            "share a role, a service or a snapshot",
            hint="use --role ROLE, --service SERVICE, or --snapshot SNAPSHOT",
        )
    return role or implied[0]


@click.command()
@name_argument
@grantee_argument
@snapshot_option
@service_option
@json_option
@pass_invocation
def unshare(invocation: Invocation, name: str, grantee: str, *, snapshot: int | None, service: str | None) -> None:
    """End the sharing of a session with a user or group.

    When the command returns, they have no access, and their connections are closed. Without an option, this ends all
    that is shared with them. What they have started continues, and sessions that they have cloned from a snapshot stay
    theirs.
    """
    from broker.text.sharing import describe_shared

    ended = invocation.client.unshare(name, grantee, snapshot=snapshot, service=service)
    if invocation.json:
        output.print_json(ended)
    else:
        output.print_note(f"{describe_shared(name, snapshot, service)} is no longer shared with {grantee}")
        if any(grant.snapshot is not None for grant in ended.grants):
            output.print_note("sessions that were cloned from it before stay with those who cloned them")
    _require_closed(name, ended)


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
        from broker.text.sharing import GRANT_HEADINGS, grant_row

        now = time.time()
        output.print_table(GRANT_HEADINGS, [grant_row(grant, now) for grant in grants])
    else:
        output.print_note("You share no session." if name is None else f"{name} is not shared.")


@click.command()
@click.argument("name", type=SharedName(), metavar="OWNER.NAME")
@snapshot_option
@service_option
@json_option
@pass_invocation
def leave(invocation: Invocation, name: str, *, snapshot: int | None, service: str | None) -> None:
    """Give up your access to a session of another user, and to its snapshots and services.

    Only its owner can give it back. What is shared with a group of yours stays: it is for all members.
    """
    from broker.text.sharing import describe_shared

    left = invocation.client.leave(name, snapshot=snapshot, service=service)
    if invocation.json:
        output.print_json(left)
    else:
        output.print_note(f"you have left {describe_shared(name, snapshot, service)}")
    _require_closed(name, left)


def _until(grant: GrantView, now: float) -> str:
    from broker.format import format_time

    return "" if grant.until is None else f", until {format_time(grant.until, now)}"


def _require_closed(name: str, ended: EndedGrants) -> None:
    """Raise BerthError if connections by the ended grants may still be open."""
    if not ended.closed:
        raise BerthError(
            "the access has ended, but connections that are open may last for up to a minute",
            hint="Berth could not write the session's files, or reach a gateway or berth-web; "
            f"`berth who {name}` shows who is connected",
        )
