"""`berth list`: list sessions."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation


@click.command("list")
@click.option("--deleted", is_flag=True, help="List deleted sessions that `berth restore` can restore.")
@json_option
@pass_invocation
def list_sessions(invocation: Invocation, *, deleted: bool) -> None:
    """List your sessions.

    NODE/REASON is the node of a ready session, or the reason why a session waits or has ended. A question mark after
    the state means that Slurm does not answer and the state may be out of date.
    """
    from broker.cli.session_text import HEADINGS, session_row, stale_note

    if deleted:
        _list_deleted(invocation)
        return
    views = invocation.client.sessions()
    if invocation.json:
        output.print_json({"sessions": [view.model_dump(mode="json") for view in views]})
        return
    if not views:
        output.print_note("You have no sessions. `berth start NAME --profile PROFILE` starts one.")
        return
    now = time.time()
    output.print_table(HEADINGS, [session_row(view, now) for view in views])
    outdated = [view for view in views if view.stale_since is not None]
    if outdated:
        output.print_note(f"berth: {stale_note(outdated[0], now).strip(' ()')}")


def _list_deleted(invocation: Invocation) -> None:
    from broker.cli.session_text import DELETED_HEADINGS, deleted_row

    views = invocation.client.deleted()
    if invocation.json:
        output.print_json({"sessions": [view.model_dump(mode="json") for view in views]})
    elif views:
        now = time.time()
        output.print_table(DELETED_HEADINGS, [deleted_row(view, now) for view in views])
    else:
        output.print_note("There is nothing to restore.")
