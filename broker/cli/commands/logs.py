"""`berth logs`, `events` and `who`: show a job's output, the events of sessions, and the connected users."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SessionName

if TYPE_CHECKING:
    from broker.schema.connections import ConnectionView

TAIL_BYTES = 1 << 20
"""How much of the log's end is fetched for `-n`; a job's log is seldom longer."""

FOLLOW_INTERVAL = 1.0
"""Seconds between two looks at a log that is followed; each look is a small read on the shared file system."""

_OVERLAP = 1024
"""Characters that must match to find where the last look ended."""


@click.command()
@name_argument
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="LINES", help="Only the last LINES lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until the job ends.")
@json_option
@pass_invocation
def logs(invocation: Invocation, name: str, *, lines: int | None, follow: bool) -> None:
    """Print the log of a session's jobs, newest last.

    It has what mounting the image, sshd and the job itself said.
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
    from broker.cli.session_text import ENDED

    client = invocation.client
    while True:
        ended = client.session(name).state in ENDED  # asked before the look, so that the last words are not missed
        text = client.log(name, tail=TAIL_BYTES)
        _write(added(seen, text))
        if ended:
            return
        seen = text
        time.sleep(FOLLOW_INTERVAL)


def added(seen: str, text: str) -> str:
    """What `text`, a later tail of a growing log, has after `seen`; all of it if the log was begun anew."""
    if text.startswith(seen):
        return text[len(seen) :]
    last = seen[-_OVERLAP:]
    place = text.rfind(last)
    return text if place < 0 else text[place + len(last) :]


def _write(text: str) -> None:
    click.echo(output.escape_controls(text, keep="\n\t"), nl=False)


@click.command()
@click.argument("name", type=SessionName(), metavar="[NAME]", required=False)
@click.option("--no-connections", is_flag=True, help="Leave out who connected.")
@json_option
@pass_invocation
def events(invocation: Invocation, name: str | None, *, no_connections: bool) -> None:
    """Print what happened to one or all of your sessions.

    And who did it, newest last.
    """
    from broker.format import format_time

    happened = invocation.client.events(name, connections=not no_connections)
    if invocation.json:
        output.print_json({"events": [event.model_dump(mode="json") for event in happened]})
        return
    now = time.time()
    output.print_table(
        ("WHEN", "SESSION", "WHO", "WHAT", "DETAIL"),
        [(format_time(event.at, now), event.session, event.actor, event.action, event.detail) for event in happened],
    )


@click.command()
@name_argument
@click.option("--all", "ended", is_flag=True, help="Those that have ended too, as far back as the site remembers.")
@json_option
@pass_invocation
def who(invocation: Invocation, name: str, *, ended: bool) -> None:
    """Show who is connected to a session.

    From where, with which key, since when, and how much went to the session and came from it: as of a minute ago at
    most. `berth ssh` goes straight to the session, so that of it only the beginning is known: --all has it.
    """
    found = invocation.client.connections(name, ended=ended)
    if invocation.json:
        output.print_json({"connections": [each.model_dump(mode="json") for each in found]})
        return
    if not found:
        output.print_note(f"Nobody {'has been' if ended else 'is'} connected to {name}, as far as Berth knows.")
        return
    headings = ("WHO", "FROM", "THROUGH", "KEY", "SINCE", "TIME", "SENT", "RECEIVED", "END")
    rows = [_row(each, time.time()) for each in found]
    last = None if ended else -1
    output.print_table(headings[:last], [row[:last] for row in rows])


def _row(view: ConnectionView, now: float) -> tuple[str, ...]:
    from broker.format import format_duration, format_size, format_time

    until = now if view.ended_at is None else view.ended_at
    return (
        view.user,
        view.peer or "-",
        view.gateway or "-",
        view.fingerprint or "-",
        format_time(view.began_at, now),
        format_duration(until - view.began_at),
        format_size(view.sent),
        format_size(view.received),
        view.end or "-",
    )
