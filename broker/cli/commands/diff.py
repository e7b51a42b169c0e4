"""`berth diff`: list what has changed in a session since its profile's image or a snapshot."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SnapshotReference
from broker.format import escape_controls, pluralize

if TYPE_CHECKING:
    from broker.schema.volumes import DiffReport, PackageChange

NOT_READ = "compared: type, mode, size, time, link target, attributes; `--content` also compares the content"


@click.command()
@name_argument
@click.option(
    "--from", "since", type=SnapshotReference(), metavar="SNAPSHOT", help="Compare with this; default: the profile."
)
@click.option(
    "--to", "until", type=SnapshotReference(), metavar="SNAPSHOT", help="Compare this; default: the present state."
)
@click.option("--content", is_flag=True, help="Also compare the content of files that look the same; slower.")
@json_option
@pass_invocation
def diff(invocation: Invocation, name: str, *, since: str | None, until: str | None, content: bool) -> None:
    """Show changed packages and files.

    Packages come first, then files. Each line has A for added, M for modified or D for deleted, a tab, and the name,
    as in `git diff --name-status`. Files of a running session may change during the comparison.

    A file is modified if its type, mode, size, modification time, link target, extended attributes or access lists
    differ. Only --content finds a change that kept the size and restored the modification time.

    \b
      berth diff dev --from 3 --to before-upgrade
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.cli.amounts import WorkAmounts
    from broker.cli.wait import show_work_progress

    with show_work_progress(invocation, f"comparing {name}", WorkAmounts(invocation, name)):
        report = invocation.client.diff(name, since, until, content=content)
    if invocation.json:
        output.print_json(report)
    else:
        _print(name, report)


def _print(name: str, report: DiffReport) -> None:
    from broker.text import status

    if report.system_as_of is not None:
        output.print_note(status.describe_save_time(report.system_as_of))
    if not report.packages and not report.files:
        output.print_note(f"{name}: no changes since {report.base}")
        if not report.content:
            output.print_note(NOT_READ)
        return
    output.print_note(f"{name}: {pluralize(len(report.packages), 'package')} changed since {report.base}")
    for package in report.packages:
        _line(*_package(package))
    many = "more than " if report.truncated else ""
    output.print_note(f"{name}: {many}{pluralize(len(report.files), 'file')} changed since {report.base}")
    for file in report.files:
        _line(file.change, file.path)


def _package(package: PackageChange) -> tuple[str, str]:
    if not package.before:
        return "A", f"{package.name} {package.after}"
    if not package.after:
        return "D", f"{package.name} {package.before}"
    return "M", f"{package.name} {package.before} -> {package.after}"


def _line(change: str, what: str) -> None:
    output.write(f"{change}\t{escape_controls(what)}\n")
