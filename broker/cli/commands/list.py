"""`berth list`: list sessions."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SessionName, watch_option
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
@click.option("--shared", is_flag=True, help="List the sessions, snapshots and services that others share with you.")
@click.option("--deleted", is_flag=True, help="List deleted sessions that `berth restore` can restore.")
@watch_option
@json_option
@pass_invocation
def list_sessions(
    invocation: Invocation,
    names: tuple[str, ...],
    *,
    states: frozenset[str] | None,
    form: str | None,
    shared: bool,
    deleted: bool,
    watch: bool,
) -> None:
    """List your sessions.

    All, or those with a NAME. NODE/REASON is the node of a ready session, or the reason why a session waits or has
    ended. A question mark after the state means that Slurm does not answer and the state may be out of date. STOPS is
    there if a session will be stopped: `at` a time, or `until` which it continues in new jobs.

    On a terminal, long reasons are shortened to its width. The wide form shows whose profile it is, too: the site's or
    your own.

    With --shared, the sessions are those of others, with your role and its end; commands take their names, OWNER.NAME.
    Snapshots that others share with you follow, from which `berth clone` makes sessions, and single services, which
    `berth open` opens. With --watch, this list is asked for every few seconds, and on a terminal shown in place;
    elsewhere it is printed, and with --json as one object, each time that it has changed.

    With --watch, the list follows every change until Ctrl-C: in place on a terminal, elsewhere with one line for each
    change, and with --json as one object for each change, `{"changed": [SESSION...], "removed": [ID...]}`.

    \b
      berth list --state ready,queued
      berth list -o wide
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    invocation.json = invocation.json or form == "json"
    if shared or deleted:
        if shared and deleted:
            raise InvalidInputError("--shared and --deleted exclude each other", hint="use one of them")
        _check_alone("--shared" if shared else "--deleted", selects=bool(names or states), watch=watch and deleted)
        if shared:
            _list_shared(invocation, form, watch=watch)
        else:
            _list_deleted(invocation, only_names=form == "name")
        return
    if watch:
        if form == "name":
            raise InvalidInputError("--output name cannot be combined with --watch")
        _watch(invocation, names, states, form)
        return
    views = _select_views(invocation.client.sessions(), names, states)
    if invocation.json:
        output.print_json({"sessions": [view.model_dump(mode="json") for view in views]})
    elif form == "name":
        for view in views:
            output.print_line(view.name)
    elif views:
        _print_sessions(views, wide=form == "wide", stores=_profile_stores(invocation, form))
    else:
        output.print_note(_describe_none(states))


def _check_alone(option: str, *, selects: bool, watch: bool) -> None:
    if selects:
        raise InvalidInputError(f"{option} cannot be combined with NAME or --state")
    if watch:
        raise InvalidInputError(f"{option} cannot be combined with --watch")


def _describe_none(states: frozenset[str] | None) -> str:
    if states:
        return "You have no sessions in these states."
    return "You have no sessions. `berth start NAME --profile PROFILE` starts one."


def _select_views(
    views: Sequence[SessionView], names: Sequence[str], states: frozenset[str] | None
) -> list[SessionView]:
    """Return the views with these names and states. NotFoundError for a name without a session."""
    if missing := sorted(set(names) - {view.name for view in views}):
        raise NotFoundError(f"you have no session named {missing[0]}", hint="`berth list` shows your sessions")
    return [view for view in views if (not names or view.name in names) and (states is None or view.state in states)]


def _profile_stores(invocation: Invocation, form: str | None) -> Sequence[str]:
    """Return the site's stores of profiles for the wide form, which tells them from the user's own."""
    return invocation.client.read_site().profile_stores if form == "wide" else ()


def _watch(invocation: Invocation, names: Sequence[str], states: frozenset[str] | None, form: str | None) -> None:
    from broker.cli.watch_output import show_list
    from broker.text.session import SHRINKING_COLUMN, session_table

    if names:
        _select_views(invocation.client.sessions(), names, None)  # its error for a name without a session
    wide, stores = form == "wide", _profile_stores(invocation, form)

    def lines(views: Sequence[SessionView]) -> list[str]:
        if not views:
            return [_describe_none(states)]
        headings, rows = session_table(views, time.time(), wide=wide, stores=stores)
        return output.table_lines(headings, rows, shrink=None if wide else SHRINKING_COLUMN)

    show_list(
        invocation,
        lambda view: (not names or view.name in names) and (states is None or view.state in states),
        lines,
    )


def _print_sessions(views: Sequence[SessionView], *, wide: bool, stores: Sequence[str]) -> None:
    from broker.text.session import SHRINKING_COLUMN, session_table, stale_note

    now = time.time()
    headings, rows = session_table(views, now, wide=wide, stores=stores)
    output.print_table(headings, rows, shrink=None if wide else SHRINKING_COLUMN)
    outdated = [view for view in views if view.stale_since is not None]
    if outdated:
        output.print_note(f"berth: {stale_note(outdated[0], now).strip(' ()')}")


def _list_shared(invocation: Invocation, form: str | None, *, watch: bool) -> None:
    from broker.cli.shared_list import print_shared, print_shared_names, watch_shared

    if watch:
        if form == "name":
            raise InvalidInputError("--output name cannot be combined with --watch")
        watch_shared(invocation, wide=form == "wide")
        return
    shared = invocation.client.shared_list()
    if invocation.json:
        output.print_json(shared)
    elif form == "name":
        print_shared_names(shared)
    else:
        print_shared(shared, wide=form == "wide")


def _list_deleted(invocation: Invocation, *, only_names: bool) -> None:
    from broker.text.session import DELETED_HEADINGS, deleted_row

    views = invocation.client.deleted_sessions()
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
