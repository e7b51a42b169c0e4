"""The `berth` command: the table of commands, their shared options, and the handling of all failures.

A command's module is imported when the command is called, and imports its own dependencies when it runs. So most of the
time of `berth --version` is the start of Python and click (ADR 0071).
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import atexit
import gc
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from broker import __version__
from broker.cli.context import Invocation, json_option
from broker.cli.output import prepare_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "start": "start:start",
    "list": "sessions:list_sessions",
    "show": "sessions:show",
    "ssh": "ssh:ssh",
    "exec": "ssh:execute",
    "open": "open:open_session",
    "stop": "sessions:stop",
    "extend": "extend:extend",
    "resize": "resize:resize",
    "set": "set:set_options",
    "delete": "sessions:delete",
    "restore": "sessions:restore",
    "snapshot": "snapshots:snapshot",
    "snapshots": "snapshots:snapshots",
    "rollback": "snapshots:rollback",
    "clone": "clone:clone",
    "switch": "clone:switch",
    "diff": "diff:diff",
    "size": "space:size",
    "verify": "space:verify",
    "flatten": "space:flatten",
    "gc": "space:gc",
    "sbatch": "sbatch:sbatch",
    "fetch": "environments:fetch",
    "promote": "environments:promote",
    "logs": "logs:logs",
    "events": "logs:events",
    "explain": "history:explain",
    "history": "history:history",
    "who": "logs:who",
    "profile": "profile:profile",
    "key": "keys:key",
    "login": "login:login",
    "logout": "login:logout",
    "ssh-config": "ssh_config:ssh_config",
    "doctor": "doctor:doctor",
    "config": "config:config",
    "completion": "completion:completion",
    "connect": "ssh:connect",
    "controller": "services:controller",
    "gateway": "services:gateway",
    "registry": "services:registry",
    "ca": "login:ca",
}
"""Command → module in `commands` and attribute in it, in the order of `berth --help`."""


class Berth(click.Group):
    """The top-level group: loads commands on demand, and reports every failure with a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(f"broker.cli.commands.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

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
        except Exception as error:  # noqa: BLE001 - no user should see a bare traceback
            from broker.cli import errors

            code = errors.report_error(error, as_json=invocation.json or errors.wants_json(arguments))
        sys.exit(code or 0)


def _use_config(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Put the path into the environment, for `load_config` in this process and in those that it starts."""
    if value is not None:
        os.environ["BERTH_CONFIG"] = os.path.abspath(value)  # noqa: PTH100 - Path.resolve would follow links


@click.command(cls=Berth, context_settings={"help_option_names": ["--help"]})
@click.version_option(__version__, prog_name="berth", message="%(prog)s %(version)s")
@click.option(
    "--config",
    metavar="FILE",
    expose_value=False,
    callback=_use_config,
    help="Read this configuration instead of $BERTH_CONFIG or /etc/berth/config.yaml.",
)
@json_option
def berth() -> None:
    """Named, persistent environments on a Slurm cluster, reached by ssh.

    `berth start dev --profile base` creates and starts one, `ssh dev.berth` connects to it, `berth stop dev` ends its
    job and keeps its files. `--json` works before or after every command.
    """


def main() -> NoReturn:
    """Entry point of the `berth` script."""
    # Garbage collection, after the imports and at the end, would take a fifth of a command's time.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    berth.main()
