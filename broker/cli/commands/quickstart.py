"""`berth quickstart`: lead a new user through key, completion, ssh configuration and the first session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.output import is_terminal, print_json, print_line, print_note
from broker.cli.questions import ask_choice, ask_yes_no
from broker.errors import BerthError

if TYPE_CHECKING:
    from broker.cli.quickstart_steps import QuickstartStep


@click.command()
@json_option
@pass_invocation
def quickstart(invocation: Invocation) -> None:
    """Set up your account for Berth, step by step.

    The steps are a key, completion, the ssh configuration and a first session. On a terminal, Berth shows the commands
    of each step and what they change, and asks before it runs them. Without a terminal, and with --json, it prints the
    commands and changes nothing. Steps that are done already are skipped, so you can run it again at any time.
    """
    leads = not invocation.json and is_terminal(sys.stdin) and is_terminal(sys.stdout)
    if leads:
        print_note("checking which steps are done")  # starts a controller in personal mode, and reads the profiles
    from broker.cli.quickstart_steps import plan_steps

    steps = plan_steps(invocation)
    if invocation.json:
        print_json({"steps": [step.as_json() for step in steps]})
    elif leads:
        _lead(invocation, steps)
    else:
        _print_commands(steps)


def _print_commands(steps: list[QuickstartStep]) -> None:
    """Print the steps as a script, in which all but the commands is a comment."""
    for number, step in enumerate(steps, 1):
        print_line(f"# {number}. {step.purpose}{': already done' if step.done else ''}")
        if step.note:
            print_line(f"#    {step.note}")
        for command in step.commands:
            print_line(command)


def _lead(invocation: Invocation, steps: list[QuickstartStep]) -> None:
    """Show each step, and run its commands if the user agrees. BerthError if a command fails."""
    for number, step in enumerate(steps, 1):
        title = f"{number}/{len(steps)} {step.purpose}"
        if not step.commands:
            print_note(f"{title}: {'already done' if step.done else 'skipped'} ({step.note})")
            continue
        print_note(title)
        chosen = _choose_profile(invocation, step) if step.name == "session" else step
        for command in chosen.commands:
            print_note(f"    $ {command}")
        print_note(f"    changes: {chosen.changes}")
        if not ask_yes_no("    Run this?", default=True):
            print_note("    skipped; nothing was changed")
            continue
        for command in chosen.commands:
            _run(command)
    print_note(_next_steps(invocation))


def _choose_profile(invocation: Invocation, step: QuickstartStep) -> QuickstartStep:
    """Ask for the profile, if there are several."""
    from broker.cli.quickstart_steps import plan_steps, startable_profiles

    names = startable_profiles(invocation)
    if len(names) < 2:
        return step
    usual = "base" if "base" in names else names[0]
    listed = ", ".join(names)
    chosen = ask_choice(f"    Profile ({listed})", names, default=usual, remedy=f"type one of {listed}")
    return next(each for each in plan_steps(invocation, chosen) if each.name == step.name)


def _run(command: str) -> None:
    """Run a command line with the shell. In it, `berth` is this program."""
    own = str(Path(sys.argv[0]).absolute().parent)
    environment = {**os.environ, "PATH": f"{own}:{os.environ.get('PATH', os.defpath)}"}
    hint = "correct the problem and run `berth quickstart` again; it skips what is done"
    try:
        code = subprocess.run(["/bin/sh", "-c", command], env=environment, check=False).returncode
    except OSError as error:
        raise BerthError(f"`{command}` cannot be run: {error.strerror}", hint=hint) from error
    if code != 0:
        raise BerthError(f"`{command}` ended with exit code {code}", hint=hint)


def _next_steps(invocation: Invocation) -> str:
    from broker.cli.quickstart_steps import FIRST_SESSION
    from broker.client.ssh_config import login_command

    login = login_command(FIRST_SESSION, invocation.client.site().domain)
    return (
        f"next: `{login}` logs in, `berth stop {FIRST_SESSION}` ends the job and keeps the "
        "files, `berth help` lists all commands; for your laptop: `berth ssh-config --help`"
    )
