"""`berth diff`: list what has changed in a session since its profile's image, or since a snapshot."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SnapshotReference

if TYPE_CHECKING:
    from broker.schema.volumes import DiffReport, PackageChange

NOT_READ = "compared: type, mode, size, time, link target, attributes; `--content` also compares the content"


@click.command()
@name_argument
@click.option(
    "--from", "since", type=SnapshotReference(), metavar="SNAPSHOT", help="Compare with this; default: the profile."
)
@click.option("--content", is_flag=True, help="Also compare the content of files that look the same; slower.")
@json_option
@pass_invocation
def diff(invocation: Invocation, name: str, *, since: str | None, content: bool) -> None:
    """Show changed packages and files.

    Packages come first, then files. Each line has A for added, M for modified or D for deleted, a tab, and the name,
    as in `git diff --name-status`. Files of a running session may change during the comparison.

    A file is modified if its type, mode, size, modification time, link target, extended attributes or access lists
    differ. Only --content finds a change that kept the size and restored the modification time.
    """
    from broker.cli.progress import ProgressLine

    with ProgressLine(quiet=invocation.json) as progress:
        if progress.changes:
            progress.show(f"{name}: {'comparing, reading the files' if content else 'comparing'}")
        report = invocation.client.diff(name, since, content=content)
    if invocation.json:
        output.print_json(report)
    else:
        _print(name, report)


def _print(name: str, report: DiffReport) -> None:
    from broker import status_text

    if report.system_as_of is not None:
        output.print_note(status_text.describe_save_time(report.system_as_of))
    if not report.packages and not report.files:
        output.print_note(f"{name}: no changes since {report.base}")
        if not report.content:
            output.print_note(NOT_READ)
        return
    output.print_note(f"{name}: {output.pluralize(len(report.packages), 'package')} changed since {report.base}")
    for package in report.packages:
        _line(*_package(package))
    many = "more than " if report.truncated else ""
    output.print_note(f"{name}: {many}{output.pluralize(len(report.files), 'file')} changed since {report.base}")
    for file in report.files:
        _line(file.change, file.path)


def _package(package: PackageChange) -> tuple[str, str]:
    if not package.before:
        return "A", f"{package.name} {package.after}"
    if not package.after:
        return "D", f"{package.name} {package.before}"
    return "M", f"{package.name} {package.before} -> {package.after}"


def _line(change: str, what: str) -> None:
    output.write(f"{change}\t{output.escape_controls(what)}\n")
