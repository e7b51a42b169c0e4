"""`berth size`, `verify`, `flatten` and `gc`: show, check and free the disk space of sessions."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.errors import ExitCode
from broker.format import pluralize


@click.command()
@name_argument
@json_option
@pass_invocation
def size(invocation: Invocation, name: str) -> None:
    """Show the disk usage of a session.

    OWN is the space that a deletion would free. TOTAL includes data that is shared with others.
    """
    from broker.cli.amounts import WorkAmounts
    from broker.cli.wait import show_work_progress
    from broker.format import format_size
    from broker.text.status import describe_save_time

    with show_work_progress(invocation, f"counting the files of {name}", WorkAmounts(invocation, name)):
        report = invocation.client.size(name)
    if invocation.json:
        output.print_json(report)
        return
    output.print_table(
        ("WHAT", "OWN", "TOTAL", "FILES"),
        [(line.what, format_size(line.own), format_size(line.total), str(line.files)) for line in report.lines],
    )
    output.print_note(
        f"{format_size(report.bytes)} in total, shared data counted once; {format_size(report.free)} free"
    )
    if report.system_as_of is not None:
        output.print_note(describe_save_time(report.system_as_of))


@click.command()
@name_argument
@json_option
@pass_invocation
def verify(invocation: Invocation, name: str) -> None:
    """Compare a session's layers with their checksums.

    Reads all layers of the session and its snapshots. For layers without checksums, it records them. Changes since the
    last snapshot are not in a layer, so they are not compared. Exit code 1 if a layer differs.
    """
    from broker.cli.amounts import WorkAmounts
    from broker.cli.wait import show_work_progress

    with show_work_progress(invocation, f"reading every layer of {name}", WorkAmounts(invocation, name)):
        report = invocation.client.verify(name)
    if invocation.json:
        output.print_json(report)
    else:
        for problem in report.problems:
            output.print_line(problem)
        recorded = f"; recorded checksums of {report.recorded} of them" if report.recorded else ""
        result = pluralize(len(report.problems), "problem") if report.problems else "no problems"
        output.print_note(f"{name}: {pluralize(report.layers, 'layer')} read, {result}{recorded}")
    if report.problems:
        raise click.exceptions.Exit(ExitCode.FAILED)


@click.command()
@name_argument
@json_option
@pass_invocation
def flatten(invocation: Invocation, name: str) -> None:
    """Merge the layers of a stopped session.

    Berth does this automatically when many layers would slow the session down. The content of the session and its
    snapshots does not change. The work is done in the background.
    """
    from broker.text.volume import describe_layers

    view = invocation.client.flatten(name)
    if invocation.json:
        output.print_json(view)
        return
    deepest = max(view.volumes.layers.values(), default=0) if view.volumes else 0
    more = "; they are merged in the background" if deepest > 1 else ""
    output.print_note(f"{name}: {describe_layers(view) or 'no layers'}{more}")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@json_option
@pass_invocation
def gc(invocation: Invocation, *, dry_run: bool) -> None:
    """Free disk space that you no longer need.

    Removes layers that no session and no snapshot uses, and deleted sessions that can no longer be restored.
    """
    from broker.cli.amounts import WorkAmounts
    from broker.cli.wait import show_work_progress
    from broker.format import format_size
    from broker.schema.volumes import GcRequest

    text = f"{'looking for' if dry_run else 'removing'} unused layers"
    with show_work_progress(invocation, text, WorkAmounts(invocation, "", "gc")):
        report = invocation.client.gc(GcRequest(dry_run=dry_run))
    if invocation.json:
        output.print_json(report)
        return
    for name in report.sessions:
        output.print_line(name)
    would = "would be " if report.dry_run else ""
    output.print_note(
        f"{would}freed: {format_size(report.bytes)} in {pluralize(report.layers, 'layer')}, "
        f"{pluralize(len(report.sessions), 'deleted session')}"
    )
