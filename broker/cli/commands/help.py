"""`berth help` and `berth version`."""

from __future__ import annotations

import click

from broker import __version__
from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def show_help(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of a command.

    Without COMMAND, of all commands. `berth help profile build` shows the help of a command in a group.
    """
    context = ctx.find_root()
    for word in words:
        if not isinstance(context.command, click.Group):
            context.fail(f"`{context.command_path}` has no commands below it")
        name, command, _ = context.command.resolve_command(context, [word])
        assert command is not None
        context = click.Context(command, info_name=name, parent=context)
    output.write(f"{context.get_help()}\n")


@click.command()
@json_option
@pass_invocation
def version(invocation: Invocation) -> None:
    """Show the version."""
    if invocation.json:
        output.print_json({"version": __version__})
    else:
        output.print_line(f"berth {__version__}")
