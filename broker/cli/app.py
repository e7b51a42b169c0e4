"""The `berth` command: the commands, their shared options, and the handling of all failures.

A command's module is imported when the command is called, and imports its own dependencies when it runs. So most of the
time of `berth --version` is the start of Python and click (ADR 0071). `broker.cli.main` answers `berth --help` without
this module.
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from broker import __version__
from broker.cli.command_table import ALIASES, COMMANDS, HIDDEN
from broker.cli.context import Invocation, json_option
from broker.cli.output import prepare_streams
from broker.cli.overview import DESCRIPTION, OPTIONS, overview
from broker.cli.page import print_page
from broker.errors import ExitCode, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Berth(click.Group):
    """The top-level group: loads commands on demand, and reports every failure with a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].location.partition(":")
        command = getattr(import_module(f"broker.cli.commands.{module}"), attribute)
        assert isinstance(command, click.Command)
        command.hidden = name in HIDDEN
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command, under its own name also if an alias was given. UsageError with a suggestion."""
        word, *rest = args
        name = ALIASES.get(word, word)
        if name in COMMANDS or word.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, [name, *rest])
        from broker.cli.suggestions import similar_command

        near = similar_command(word)
        raise click.UsageError(f"no such command {word!r}{f'; did you mean {near!r}?' if near else ''}", ctx)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. Ctrl-C raises InterruptedWaitError, which names a request that was sent."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            from broker.cli.errors import interrupted_command

            raise interrupted_command() from None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the page of all commands, without an import of any."""
        del ctx
        formatter.write(overview(formatter.width))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002 - the signature is click's; failures always end here
        windows_expand_args: bool = True,  # noqa: ARG002 - as above
        **extra: Any,  # noqa: ANN401 - as above
    ) -> NoReturn:
        """Run one command and end the process with a code of docs/reference/exit-codes.md."""
        prepare_streams()
        invocation = Invocation()
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(arguments, prog_name or "berth", complete_var, False, obj=invocation, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            code = _show_help(error)
        except Exception as error:  # noqa: BLE001 - no user should see a bare traceback
            from broker.cli import errors

            if isinstance(error, NotFoundError) and invocation.names:
                from broker.cli.suggestions import with_similar_session

                with contextlib.suppress(KeyboardInterrupt):  # it asks the controller; the error is the same without it
                    error = with_similar_session(error, invocation)
            code = errors.report_error(error, as_json=invocation.json or errors.wants_json(arguments))
        sys.exit(code or 0)


def _show_help(error: click.exceptions.NoArgsIsHelpError) -> ExitCode:
    """Print the help of a group that was called alone; return the exit code."""
    return print_page(f"{error.format_message()}\n")


def _use_config(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Put the path into the environment, for `load_config` in this process and in those that it starts."""
    if value is not None:
        os.environ["BERTH_CONFIG"] = os.path.abspath(value)  # noqa: PTH100 - Path.resolve would follow links


@click.command(cls=Berth, help=DESCRIPTION, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="berth", message="%(prog)s %(version)s")
@click.option(
    "--config",
    metavar="FILE",
    expose_value=False,
    callback=_use_config,
    help=OPTIONS["--config FILE"],
)
@json_option
def berth() -> None:
    """Run before every command. Its help is in `overview`."""


def run() -> NoReturn:
    """Run the process's command line, and end the process. Only the command itself turns Ctrl-C into an error."""
    # Garbage collection, after the imports and at the end, would take a fifth of a command's time.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    takes_interrupts = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    try:
        if takes_interrupts:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        berth.main()
    except KeyboardInterrupt:  # before the command began, or while its end was reported
        sys.exit(ExitCode.INTERRUPTED)
    finally:
        if takes_interrupts:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
