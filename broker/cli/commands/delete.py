"""`berth delete` and `restore`: delete sessions, and restore deleted ones."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import names_argument, no_wait_option, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import DeletedName, SessionName
from broker.cli.prompts import check_request, confirm, yes_option
from broker.cli.several import all_option, apply_to_each, raise_failures, selected_names
from broker.text.question import ask_delete, describe_deletion

if TYPE_CHECKING:
    from broker.errors import BerthError


@click.command()
@names_argument
@all_option("stopped")
@click.option("--purge", is_flag=True, help="Delete permanently: `berth restore` cannot restore it.")
@yes_option
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def delete(
    invocation: Invocation,
    names: tuple[str, ...],
    *,
    every: bool,
    purge: bool,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Delete a stopped session and all its files.

    `berth restore NAME` can restore it with its snapshots for a time that the site sets; the command prints until
    when. The name is free at once.
    """
    from broker.text.session import ENDED

    chosen = selected_names(invocation, names, ENDED, every=every)
    failed: list[BerthError] = []
    reports = apply_to_each(chosen, lambda name: check_request(invocation, name, yes=yes, delete=True), failed)
    if stopped := [report.session.name for report in reports]:
        undone = f"{', '.join(stopped)} {'was' if len(stopped) == 1 else 'were'} not deleted"
        confirm(ask_delete(stopped, purge=purge), undone=undone, yes=yes)
    deleted = apply_to_each(stopped, lambda name: invocation.client.delete(name, purge=purge), failed)
    if not no_wait:
        from broker.cli.wait import until_gone

        views = {view.name: view for view in deleted}
        apply_to_each(list(views), lambda name: until_gone(invocation, views[name], timeout=timeout), failed)
    if invocation.json:
        results = [
            {"deleted": view.name, "id": view.id, "complete": not no_wait, "kept_until": view.kept_until}
            for view in deleted
        ]
        output.print_json(results[0] if len(chosen) == 1 else {"sessions": results})
    else:
        for view in deleted:
            output.print_note(describe_deletion(view, complete=not no_wait))
    raise_failures(failed, len(chosen))


@click.command()
@click.argument("name", type=DeletedName(), metavar="NAME")
@click.option("--as", "new", type=SessionName(), metavar="NEW", help="Restore it under this name.")
@timeout_option
@json_option
@pass_invocation
def restore(invocation: Invocation, name: str, new: str | None, *, timeout: float | None) -> None:
    """Restore a deleted session.

    The session is stopped then, with all its files and snapshots. `berth list --deleted` lists deleted sessions; of
    several with the same name, the last deleted one is restored.
    """
    from broker.cli.wait import show_request_progress, until_made
    from broker.schema.volumes import RestoreRequest

    with show_request_progress(invocation, new or name, "restore"):
        view = invocation.client.restore(name, RestoreRequest(name=new))
    view = until_made(invocation, view, timeout=timeout)
    if invocation.json:
        output.print_json(view)
    else:
        output.print_note(f"{view.name} was restored; `berth start {view.name}` starts it")
