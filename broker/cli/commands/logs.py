"""`berth logs`, `events` and `who`: show a job's output, the events of sessions, and the connected users."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument, reference_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SessionReference
from broker.format import escape_controls, pluralize
from broker.text.log import added_text

if TYPE_CHECKING:
    from broker.schema.connections import ConnectionView

TAIL_BYTES = 1 << 20
"""Bytes of the log's end that are fetched for `-n`; few logs are longer."""

FOLLOW_INTERVAL_S = 1.0
"""Time between two reads of a followed log; each read is a small one on the shared file system."""


@click.command()
@reference_argument
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="LINES", help="Only the last LINES lines.")
@click.option("-f", "--follow", is_flag=True, help="Also print new lines, until the job ends.")
@json_option
@pass_invocation
def logs(invocation: Invocation, name: str, *, lines: int | None, follow: bool) -> None:
    """Print the log of a session's jobs, newest last.

    It has the messages of the job script, of the image's mount, and of sshd.
    """
    text = invocation.client.log(name, tail=TAIL_BYTES)
    shown = text if lines is None else "".join(text.splitlines(keepends=True)[-lines:] if lines else [])
    if invocation.json and not follow:
        output.print_json({"text": shown})
        return
    _write(shown)
    if follow:
        _follow(invocation, name, text)


def _follow(invocation: Invocation, name: str, seen: str) -> None:
    from broker.text.session import ENDED

    client = invocation.client
    while True:
        ended = client.session(name).state in ENDED  # before the read, so that no last lines are missed
        text = client.log(name, tail=TAIL_BYTES)
        _write(added_text(seen, text))
        if ended:
            return
        seen = text
        time.sleep(FOLLOW_INTERVAL_S)


def _write(text: str) -> None:
    output.write(escape_controls(text, keep="\n\t"))


@click.command()
@click.argument("name", type=SessionReference(), metavar="[[OWNER.]NAME]", required=False)
@click.option("--no-connections", is_flag=True, help="Leave out connections.")
@json_option
@pass_invocation
def events(invocation: Invocation, name: str | None, *, no_connections: bool) -> None:
    """List the events of one or all of your sessions.

    With the user who caused each event; newest last.
    """
    from broker.format import format_time

    listed = invocation.client.events(name, connections=not no_connections)
    if invocation.json:
        output.print_json({"events": [event.model_dump(mode="json") for event in listed]})
        return
    now = time.time()
    output.print_table(
        ("WHEN", "SESSION", "WHO", "WHAT", "DETAIL"),
        [(format_time(event.at, now), event.session, event.actor, event.action, event.detail) for event in listed],
    )


@click.command()
@name_argument
@click.option(
    "--all", "ended", is_flag=True, help="Also show closed connections, as long as the site keeps their records."
)
@json_option
@pass_invocation
def who(invocation: Invocation, name: str, *, ended: bool) -> None:
    """Show the connections to a session.

    With user, client address, key, start, and bytes sent to and received from the session, at most a minute old. Of
    `berth ssh`, which connects directly from the login node, only the start is known: with --all, it ends as
    `not followed`, without a time and sizes. The number of open terminals, which the
    session's job reports, includes those of `berth ssh`. Guests are named with their roles, also those who have opened
    a shared service in a browser.
    """
    presence = None if ended else invocation.client.presence(name)
    found = invocation.client.connections(name, ended=True) if presence is None else presence.connections
    if invocation.json:
        result: dict[str, object] = {"connections": [each.model_dump(mode="json") for each in found]}
        if presence is not None:
            guests = [each.model_dump(mode="json") for each in presence.guests]
            result |= {"guests": guests, "terminals": presence.terminals}
        output.print_json(result)
        return
    if presence is not None and presence.terminals:
        output.print_note(f"{name} has {pluralize(presence.terminals, 'open terminal')}.")
    if presence is not None:
        from broker.text.sharing import describe_visits

        for line in describe_visits(presence, time.time()):
            output.print_note(line)
    if not found:
        output.print_note(f"Berth knows of no {'' if ended else 'open '}connections to {name}.")
        return
    headings = ("WHO", "ROLE", "FROM", "THROUGH", "KEY", "SINCE", "TIME", "SENT", "RECEIVED", "END")
    rows = [_row(each, time.time()) for each in found]
    last = None if ended else -1
    output.print_table(headings[:last], [row[:last] for row in rows])


def _row(view: ConnectionView, now: float) -> tuple[str, ...]:
    from broker.format import format_duration, format_size, format_time
    from broker.schema.connections import NOT_FOLLOWED

    until = now if view.ended_at is None else view.ended_at
    measured = (format_duration(until - view.began_at), format_size(view.sent), format_size(view.received))
    return (
        view.user,
        view.role or "-",
        view.peer or "login node",
        view.gateway or "-",
        view.fingerprint or "-",
        format_time(view.began_at, now),
        *(("-", "-", "-") if view.end == NOT_FOLLOWED else measured),
        view.end or "-",
    )
