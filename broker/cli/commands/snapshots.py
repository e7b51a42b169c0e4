"""`berth snapshot`, `snapshots` and `rollback`: save a session's state, and return to it."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument, no_wait_option, reference_argument, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SnapshotLabel, SnapshotReference
from broker.cli.prompts import announce_restart, check_request, confirm, yes_option
from broker.errors import NotFoundError
from broker.text.question import ask_delete_snapshot, describe_rollback_plan

if TYPE_CHECKING:
    from broker.schema.volumes import SnapshotView


@click.command()
@reference_argument
@click.argument("label", type=SnapshotLabel(), metavar="[LABEL]", required=False)
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def snapshot(invocation: Invocation, name: str, label: str | None, *, no_wait: bool, timeout: float | None) -> None:
    """Save a session's present state as a snapshot.

    A snapshot of a stopped session is fast at any size. A running session keeps running while its changes since the
    last snapshot are copied; at the end of the copy, its processes are frozen for a moment. The command prints the
    length of the pause, or that they could not be frozen, and the snapshot's number: for a script, on stdout alone.

    \b
      berth snapshot dev before-upgrade
      berth rollback dev before-upgrade
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.cli.wait import show_request_progress, until_done
    from broker.schema.volumes import SnapshotRequest
    from broker.text.session import state_line
    from broker.text.volume import describe_consistency, snapshot_name

    with show_request_progress(invocation, name, "snapshot"):
        view = invocation.client.snapshot(name, SnapshotRequest(label=label))
    if no_wait:
        if invocation.json:
            output.print_json(view)
        else:
            output.print_note(state_line(view))
        return
    view, operation = until_done(invocation, view, timeout=timeout)
    if "." in name:  # a guest sees no list of snapshots
        if invocation.json:
            output.print_json(view)
        else:
            output.print_note(f"{name}: {operation.message or 'the snapshot is taken'}")
        return
    made = _find_snapshot(invocation, name, operation.snapshot)
    if invocation.json:
        output.print_json(made)
        return
    output.print_note(f"{name}: {snapshot_name(made)}, {describe_consistency(made)}")
    if output.is_terminal(sys.stdout):
        output.print_note(f"to return to it: berth rollback {name} {made.number}")
    else:
        output.print_line(str(made.number))


def _find_snapshot(invocation: Invocation, name: str, number: int | None) -> SnapshotView:
    for each in invocation.client.snapshots(name):
        if each.number == number:
            return each
    raise NotFoundError(
        f"the snapshot of {name} was already deleted", hint=f"`berth events {name}` shows who deleted it"
    )


@click.command()
@name_argument
@click.option(
    "--delete", "unwanted", type=SnapshotReference(), metavar="SNAPSHOT", help="Delete this snapshot permanently."
)
@yes_option
@json_option
@pass_invocation
def snapshots(invocation: Invocation, name: str, *, unwanted: str | None, yes: bool) -> None:
    """List the snapshots of a session, or delete one.

    `automatic` marks snapshots that Berth took before it changed the session; WHY names the change. CONSISTENCY is
    `stopped` if no job ran, `frozen` if all processes were frozen during the copy, with the length of the pause, and
    `crash-consistent` if they could not be frozen.
    """
    from broker.text.volume import SNAPSHOT_HEADINGS, snapshot_row

    if unwanted is not None:
        _delete(invocation, name, unwanted, yes=yes)
        return
    kept = invocation.client.snapshots(name)
    if invocation.json:
        output.print_json({"snapshots": [each.model_dump(mode="json") for each in kept]})
    elif kept:
        now = time.time()
        output.print_table(SNAPSHOT_HEADINGS, [snapshot_row(each, now) for each in kept])
    else:
        output.print_note(f"{name} has no snapshots. `berth snapshot {name}` makes one.")


def _delete(invocation: Invocation, name: str, reference: str, *, yes: bool) -> None:
    from broker.text.volume import snapshot_name

    check_request(invocation, name, yes=yes, delete_snapshot=reference)
    confirm(ask_delete_snapshot(name, reference), undone=f"snapshot {reference} was not deleted", yes=yes)
    gone = invocation.client.delete_snapshot(name, reference)
    if invocation.json:
        output.print_json(gone)
    else:
        output.print_note(f"deleted {snapshot_name(gone)} of {name}; its disk space is freed in the background")


@click.command()
@name_argument
@click.argument("snapshot", type=SnapshotReference(), metavar="SNAPSHOT")
@yes_option
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def rollback(
    invocation: Invocation, name: str, snapshot: str, *, yes: bool, no_wait: bool, timeout: float | None
) -> None:
    """Roll a session back to a snapshot.

    SNAPSHOT is a number or label of `berth snapshots`. The rollback restores home, system and profile. It saves the
    present state as a snapshot first, and prints how to return to it. It copies nothing, so it is fast.

    A running session is stopped, after a question, and started again under its name; the command returns when it is
    ready.
    """
    from broker.cli.wait import finish_operation, show_request_progress
    from broker.schema.volumes import RollbackRequest

    announce_restart(
        invocation,
        check_request(invocation, name, yes=yes, rollback=RollbackRequest(snapshot=snapshot)),
        describe_rollback_plan(snapshot),
        undone=f"{name} was not rolled back",
        yes=yes,
    )
    with show_request_progress(invocation, name, "rollback"):
        view = invocation.client.rollback(name, RollbackRequest(snapshot=snapshot))
    finish_operation(invocation, view, f"rolled {name} back to snapshot {snapshot}", no_wait=no_wait, timeout=timeout)
