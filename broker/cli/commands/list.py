"""`berth list`: list sessions."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SessionName
from broker.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.sessions import SessionView

STATES = (
    *("submitting", "queued", "starting", "ready", "stopping", "stopped", "changing", "failed", "deleting"),
    "deleted",
)
"""The values of schema.SessionState, which takes long to import."""


class States(click.ParamType[frozenset[str]]):
    """States of sessions, separated by commas."""

    name = "states"

    def convert(
        self, value: str | frozenset[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[str]:
        if isinstance(value, frozenset):
            return value
        words = frozenset(value.lower().split(","))
        if unknown := sorted(words - set(STATES)):
            self.fail(f"{unknown[0]!r} is not a state; the states are {', '.join(STATES)}", param, ctx)
        return words

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(state) for state in STATES if state.startswith(incomplete)]


@click.command("list")
@click.argument("names", nargs=-1, type=SessionName(), metavar="[NAME]...")
@click.option("--state", "states", type=States(), metavar="STATE[,STATE]...", help="Only sessions in these states.")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["wide", "name", "json"]),
    help="wide: all columns, nothing shortened; name: only the names; json: as --json.",
)
@click.option("--deleted", is_flag=True, help="List deleted sessions that `berth restore` can restore.")
@json_option
@pass_invocation
def list_sessions(
    invocation: Invocation, names: tuple[str, ...], *, states: frozenset[str] | None, form: str | None, deleted: bool
) -> None:
    """List your sessions.

    All, or those with a NAME. NODE/REASON is the node of a ready session, or the reason why a session waits or has
    ended. A question mark after the state means that Slurm does not answer and the state may be out of date. STOPS is
    there if a session will be stopped: `at` a time, or `until` which it continues in new jobs.

    On a terminal, long reasons are shortened to its width.

    \b
      berth list --state ready,queued
      berth list -o wide
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    invocation.json = invocation.json or form == "json"
    if deleted:
        if names or states:
            raise InvalidInputError("--deleted cannot be combined with NAME or --state")
        _list_deleted(invocation, only_names=form == "name")
        return
    views = _selected(invocation.client.sessions(), names, states)
    if invocation.json:
        output.print_json({"sessions": [view.model_dump(mode="json") for view in views]})
    elif form == "name":
        for view in views:
            output.print_line(view.name)
    elif views:
        _print_sessions(views, wide=form == "wide")
    elif states:
        output.print_note("You have no sessions in these states.")
    else:
        output.print_note("You have no sessions. `berth start NAME --profile PROFILE` starts one.")


def _selected(views: Sequence[SessionView], names: Sequence[str], states: frozenset[str] | None) -> list[SessionView]:
    """Return the views with these names and states. NotFoundError for a name without a session."""
    if missing := sorted(set(names) - {view.name for view in views}):
        raise NotFoundError(f"you have no session named {missing[0]}", hint="`berth list` shows your sessions")
    return [view for view in views if (not names or view.name in names) and (states is None or view.state in states)]


def _print_sessions(views: Sequence[SessionView], *, wide: bool) -> None:
    from broker.cli.session_text import SHRINKING_COLUMN, session_table, stale_note

    now = time.time()
    headings, rows = session_table(views, now, wide=wide)
    output.print_table(headings, rows, shrink=None if wide else SHRINKING_COLUMN)
    outdated = [view for view in views if view.stale_since is not None]
    if outdated:
        output.print_note(f"berth: {stale_note(outdated[0], now).strip(' ()')}")


def _list_deleted(invocation: Invocation, *, only_names: bool) -> None:
    from broker.cli.session_text import DELETED_HEADINGS, deleted_row

    views = invocation.client.deleted()
    if invocation.json:
        output.print_json({"sessions": [view.model_dump(mode="json") for view in views]})
    elif only_names:
        for view in views:
            output.print_line(view.name)
    elif views:
        now = time.time()
        output.print_table(DELETED_HEADINGS, [deleted_row(view, now) for view in views])
    else:
        output.print_note("There is nothing to restore.")
