"""`berth ssh`, `exec` and `connect`: connect to a session from a login node.

`ssh` and `exec` run ssh(1), which connects directly to the session's sshd and verifies its host certificate for the
session's name. A small process of Berth waits for ssh, and explains the session's end (ADR 0073).
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import itertools
import os
import shlex
from typing import TYPE_CHECKING, NoReturn

import click

from broker.cli.context import Invocation, pass_invocation
from broker.cli.params import HOST, SessionName, SessionReference
from broker.errors import InvalidInputError
from broker.names import split_reference

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("name", type=SessionReference(), required=False, metavar="[[OWNER.]NAME]")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[SSH OPTIONS AND COMMAND]...")
@pass_invocation
def ssh(invocation: Invocation, name: str | None, words: tuple[str, ...]) -> NoReturn:
    """Log in to a session from a login node, with ssh.

    Starts a stopped session, and waits until it is ready; Ctrl-C ends only the wait. Arguments after NAME are passed to
    ssh, as in `berth ssh dev -L 8888:localhost:8888`. The exit code is ssh's. If the session ends, the command
    says why.

    With OWNER.NAME, a guest with the role `watch` sees the terminals that the session's owner shows.

    Without NAME, it takes your only session, or your only one with a job. If there are several, it asks.
    """
    if name is None:
        from broker.cli.default_session import default_session

        name = default_session(invocation)
    owner, own = split_reference(name, _user())
    if owner != _user():
        _become_guest(invocation, name, words)
    _become_ssh(invocation, own, before=[], after=words)


class ExecCommand(click.Command):
    """A command whose name may be missing before `--`: click would take the first word after it for the name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = [*itertools.dropwhile(lambda word: word.startswith("-") and word != "--", args)]
        if words[:1] == ["--"]:
            ctx.meta[_WITHOUT_NAME] = tuple(words[1:])
            args = args[: len(args) - len(words)]
        return super().parse_args(ctx, args)


_WITHOUT_NAME = "berth.exec.words"
"""The key of the command's words in the context, if no session is named."""


@click.command("exec", cls=ExecCommand, context_settings={"allow_interspersed_args": False})
@click.option("-t", "terminal", is_flag=True, help="Give the command a terminal.")
@click.option("--root", is_flag=True, help="Run the command as root, to install software; see above.")
@click.option("--keep", is_flag=True, help="With --root: keep the changes even if the command fails.")
@click.option("--yes", is_flag=True, help="With --root: end running programs without a question.")
@click.argument("name", type=SessionName(), required=False, metavar="[NAME]")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARG]...")
@pass_invocation
@click.pass_context
def execute(
    ctx: click.Context,
    invocation: Invocation,
    name: str | None,
    words: tuple[str, ...],
    *,
    terminal: bool,
    root: bool,
    keep: bool,
    yes: bool,
) -> NoReturn:
    """Run a command in a session.

    Arguments, stdin and stdout are passed unchanged. The exit code is the command's, or 255 if ssh failed. If the
    session ends meanwhile, as by its memory limit, the command says why. Put options before NAME.
    `berth exec -- COMMAND` takes the session that `berth ssh` takes.

    With --root, the session is stopped, after a question, and started in root mode for this command. There, root may
    become any user and own files of any user. If the command ends with 0, its changes outside the home are kept, and
    the state before is saved as a snapshot; otherwise the changes are discarded. Then the session is started again, or
    stays stopped if it was.

    \b
      berth exec --root dev -- apt-get install -y postgresql
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    if (keep or yes) and not root:
        shown = name or "NAME"
        raise InvalidInputError("--keep and --yes require --root", hint=f"`berth exec --root {shown} -- COMMAND`")
    command = _checked_command(name, ctx.meta.get(_WITHOUT_NAME, words))
    if name is None:
        from broker.cli.default_session import default_session

        name = default_session(invocation)
    before = ["-t" if terminal else "-T"]
    if not root:
        _become_ssh(invocation, name, before=before, after=["--", shlex.join(command)])
    from broker.cli.commands.exec_root import run_as_root

    code = run_as_root(invocation, name, before, shlex.join(command), keep=keep, yes=yes)
    raise click.exceptions.Exit(code)


def _checked_command(name: str | None, words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command and its arguments; InvalidInputError if there is none, or an option in its place."""
    command = words[1:] if words[:1] == ("--",) else words
    shown = name or "NAME"
    if not command:
        raise InvalidInputError(
            "the command is missing", hint=f"`berth exec {shown} -- COMMAND`; `berth ssh {shown}` logs in"
        )
    if command[0].startswith("-"):
        raise InvalidInputError(
            f"{command[0]!r} is not a command", hint=f"put options before the name: `berth exec -t {shown} -- COMMAND`"
        )
    return command


@click.command()
@click.argument("host", type=HOST, metavar="HOST")
@pass_invocation
def connect(invocation: Invocation, host: str) -> None:
    """Connect stdin and stdout to a session, for ssh.

    As in `ProxyCommand ssh LOGIN berth connect %h`, which `berth ssh-config` writes. HOST is NAME, NAME.DOMAIN or
    OWNER.NAME.DOMAIN. Starts a stopped session, and waits until it is ready, with progress on stderr.
    """
    from broker.client import proxy_command as way
    from broker.config.file import connect_settings

    settings = connect_settings()
    if settings is None:  # the client starts a personal controller, also one that leaves just now
        config = invocation.config
        there = invocation.client.resolve(_user(), host, tell=_tell)
        found = way.Destination(there.host, there.port, there.session_id, there.generation)
        way.relay_and_report(config.api_socket, _user(), found, answer_timeout=config.ssh.answer_timeout)
    else:
        place, seconds = settings
        way.relay_and_report(place, _user(), way.resolve_target(place, _user(), host, _tell), answer_timeout=seconds)


def _tell(how_far: str) -> None:
    from broker.cli.output import print_note

    print_note(f"berth: {how_far}")


def _become_ssh(invocation: Invocation, name: str, *, before: Sequence[str], after: Sequence[str]) -> NoReturn:
    """Become the program that runs ssh(1). Raises the error with which the controller refuses, before ssh starts."""
    from broker.cli.connection_end import explain_command
    from broker.cli.ssh_process import find_ssh, ssh_command
    from broker.cli.ssh_watcher import watcher_command

    find_ssh()
    argv, connection = ssh_command(invocation, name, before=before, after=after)
    program = watcher_command(explain_command(connection), argv)
    os.execvp(program[0], program)  # noqa: S606 - without a shell


def _become_guest(invocation: Invocation, reference: str, words: Sequence[str]) -> NoReturn:
    """Become ssh(1) for a session of another user."""
    from broker.cli.guest_ssh import guest_command
    from broker.cli.ssh_process import find_ssh

    find_ssh()
    command = guest_command(invocation, reference, words)
    os.execvp(command[0], command)  # noqa: S606 - without a shell


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
