"""Print a page that is the whole result of a command."""

# ruff: noqa: PLC0415 - these imports take long, and only a failure needs them (ADR 0143)

from __future__ import annotations

from broker.cli.output import write
from broker.errors import BerthError, ExitCode


def print_page(text: str) -> ExitCode:
    """Write a result, and report a failure to do so. Return the exit code."""
    try:
        write(text)
    except BerthError as error:
        from broker.cli.errors import report_error

        return report_error(error, as_json=False)
    except RuntimeError as error:
        import click

        if not isinstance(error, click.exceptions.Exit):
            raise
        return ExitCode(error.exit_code)
    return ExitCode.OK
