"""`berth doctor`: find what is missing, and say how to fix it."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.errors import ExitCode

if TYPE_CHECKING:
    from broker.schema.site import DoctorCheck


@click.command()
@json_option
@pass_invocation
def doctor(invocation: Invocation) -> None:
    """Check this machine and the controller.

    Each problem has a hint. Exit code 1 if a check fails; `note` marks optional items.
    """
    from broker.cli.doctor_checks import every_check
    from broker.schema.site import DoctorReport

    checks = []
    for check in every_check(invocation):
        checks.append(check)
        if not invocation.json:
            _print(check)
    if invocation.json:
        output.print_json(DoctorReport(checks=checks))
    if not all(check.ok for check in checks):
        raise click.exceptions.Exit(ExitCode.FAILED)


def _print(check: DoctorCheck) -> None:
    mark = ("note" if check.hint else "ok") if check.ok else "FAIL"
    output.print_line(f"{mark:<5} {check.name:<14} {check.detail}")
    if check.hint:
        output.print_line(f"{'':<5} {'':<14} {check.hint}")
