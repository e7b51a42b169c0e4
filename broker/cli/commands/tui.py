"""`berth tui`: open the terminal interface."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import os
import sys

import click


@click.command()
@click.option("--plain", is_flag=True, help="A menu of lines, for screen readers and terminals without a cursor.")
def tui(*, plain: bool) -> None:
    """Open the terminal interface.

    It lists your sessions and shows changes as they happen. `?` shows all keys, `:` finds an action by its name, `q`
    quits. Sessions do not depend on it.

    With --plain, and on a terminal without a cursor (TERM=dumb), it prints lines and reads lines, and changes nothing
    on the screen in between.
    """
    from broker.config.environment import inherited_environment

    command = [sys.executable, "-P", "-m", "tui", *(["--plain"] if plain else [])]
    environment = dict(os.environ)
    if not inherited_environment().get("LC_CTYPE"):
        environment.pop("LC_CTYPE", None)  # Python has set it
    os.execve(sys.executable, command, environment)  # noqa: S606 - a program of this installation, without a shell
