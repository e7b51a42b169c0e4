"""`berth size`, `verify`, `flatten` and `gc`: show, check and free the disk space of sessions."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.errors import ExitCode


@click.command()
@name_argument
@json_option
@pass_invocation
def size(invocation: Invocation, name: str) -> None:
    """Show what a session takes on disk.

    OWN is what only this has: what deleting it would give back. TOTAL counts what it shares with others too.
    """
    from broker.cli.progress import ProgressLine
    from broker.format import format_size
    from broker.status_text import describe_save_time

    with ProgressLine(quiet=invocation.json) as progress:
        if progress.changes:
            progress.show(f"{name}: counting")
        report = invocation.client.size(name)
    if invocation.json:
        output.print_json(report)
        return
    output.print_table(
        ("WHAT", "OWN", "TOTAL", "FILES"),
        [(line.what, format_size(line.own), format_size(line.total), str(line.files)) for line in report.lines],
    )
    output.print_note(
        f"{format_size(report.bytes)} in all, what is shared counted once; {format_size(report.free)} free"
    )
    if report.system_as_of is not None:
        output.print_note(describe_save_time(report.system_as_of))


@click.command()
@name_argument
@json_option
@pass_invocation
def verify(invocation: Invocation, name: str) -> None:
    """Compare a session's layers with their checksums.

    Its own and those of its snapshots; this reads all of them. A layer that has no checksums yet gets them, for the
    next time. What was written since the last snapshot is not compared: it changes. Exit code 1 if a layer is not
    what it was.
    """
    from broker.cli.progress import ProgressLine

    with ProgressLine(quiet=invocation.json) as progress:
        if progress.changes:
            progress.show(f"{name}: reading every layer")
        report = invocation.client.verify(name)
    if invocation.json:
        output.print_json(report)
    else:
        for problem in report.problems:
            output.print_line(problem)
        recorded = f"; {report.recorded} of them had no checksums and got them now" if report.recorded else ""
        found = output.pluralize(len(report.problems), "problem") if report.problems else "all as they were"
        output.print_note(f"{name}: {output.pluralize(report.layers, 'layer')} read, {found}{recorded}")
    if report.problems:
        raise click.exceptions.Exit(ExitCode.FAILED)


@click.command()
@name_argument
@json_option
@pass_invocation
def flatten(invocation: Invocation, name: str) -> None:
    """Make few layers of the many of a stopped session.

    Berth does it by itself when there are so many that they would slow the session down. Nothing in the session or
    its snapshots looks different afterwards. What takes long goes on in the background.
    """
    from broker.cli.volume_text import describe_layers

    view = invocation.client.flatten(name)
    if invocation.json:
        output.print_json(view)
        return
    deepest = max(view.volumes.layers.values(), default=0) if view.volumes else 0
    more = "; fewer when that is done in the background" if deepest > 1 else ""
    output.print_note(f"{name}: {describe_layers(view) or 'no layers'}{more}")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
@pass_invocation
def gc(invocation: Invocation, *, dry_run: bool) -> None:
    """Give back the space that nothing of yours needs any more.

    Layers that no session and no snapshot is made of, and deleted sessions whose time to be restored is over.
    """
    from broker.cli.progress import ProgressLine
    from broker.format import format_size
    from broker.schema.volumes import GcRequest

    with ProgressLine(quiet=invocation.json) as progress:
        if progress.changes:
            progress.show("looking for what nothing needs")
        report = invocation.client.gc(GcRequest(dry_run=dry_run))
    if invocation.json:
        output.print_json(report)
        return
    for name in report.sessions:
        output.print_line(name)
    would = "would be " if report.dry_run else ""
    output.print_note(
        f"{would}given back: {format_size(report.bytes)} in {output.pluralize(report.layers, 'layer')}, "
        f"{output.pluralize(len(report.sessions), 'deleted session')}"
    )
