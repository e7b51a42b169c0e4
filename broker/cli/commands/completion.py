"""`berth completion`: print the shell code that completes commands, options, sessions and profiles."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from broker.cli import output


@click.command()
@click.argument("shell", type=click.Choice(["bash", "fish", "zsh"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
      eval "$(berth completion bash)"      # in ~/.bashrc
      eval "$(berth completion zsh)"       # in ~/.zshrc
      berth completion fish > ~/.config/fish/completions/berth.fish
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.cli.app import berth

    chosen = get_completion_class(shell)
    assert chosen is not None
    output.write(f"{chosen(berth, {}, 'berth', '_BERTH_COMPLETE').source()}\n")
