"""`berth ssh`, `exec` and `connect`: the ways in from a login node.

`ssh` and `exec` become the real ssh(1), which talks straight to the session's sshd and checks its host certificate
under the session's own name: no process of ours stays in between (ADR 0073).
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, NoReturn

import click

from broker.cli.arguments import SessionName
from broker.cli.invocation import Invocation, pass_invocation
from broker.errors import BerthError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from broker.schema import SiteView


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("name", type=SessionName(), metavar="NAME")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[SSH OPTIONS AND COMMAND]...")
@pass_invocation
def ssh(invocation: Invocation, name: str, words: tuple[str, ...]) -> NoReturn:
    """Log in to a session from here, with the real ssh.

    What follows NAME is for ssh, as in `berth ssh dev -L 8888:localhost:8888`. The exit code is ssh's.
    """
    _become_ssh(invocation, name, before=[], after=words)


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-t", "terminal", is_flag=True, help="Give the command a terminal.")
@click.argument("name", type=SessionName(), metavar="NAME")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARG]...")
@pass_invocation
def execute(invocation: Invocation, name: str, words: tuple[str, ...], *, terminal: bool) -> NoReturn:
    """Run a command in a session.

    Its arguments arrive as given, stdin and stdout byte for byte. The exit code is the command's, and 255 if
    ssh itself failed. Options stand before NAME.
    """
    command = words[1:] if words[:1] == ("--",) else words
    if not command:
        raise InvalidInputError("which command?", hint=f"`berth exec {name} -- COMMAND`; `berth ssh {name}` logs in")
    if command[0].startswith("-"):
        raise InvalidInputError(
            f"{command[0]!r} is not a command", hint=f"options stand before the name: `berth exec -t {name} -- COMMAND`"
        )
    _become_ssh(invocation, name, before=["-t" if terminal else "-T"], after=["--", shlex.join(command)])


@click.command()
@click.argument("host", metavar="HOST")
@pass_invocation
def connect(invocation: Invocation, host: str) -> None:
    """Be ssh's ProxyCommand: stdin and stdout to a session.

    As in `ProxyCommand ssh LOGIN berth connect %h`. HOST is NAME, NAME.DOMAIN or OWNER.NAME.DOMAIN. `berth ssh-
    config` writes the line.
    """
    from broker import connect as way
    from broker.configfile import site_socket

    place = site_socket()
    if place is None:  # the client starts a personal controller, also one that leaves just now
        there = invocation.client.resolve(_user(), host)
        way.relay(way.Destination(there.host, there.port))
    else:
        way.relay(way.resolve(place, _user(), host))


def _become_ssh(invocation: Invocation, name: str, *, before: Sequence[str], after: Sequence[str]) -> NoReturn:
    """Replace this process by ssh(1). Raises what the controller refuses with, before ssh is asked."""
    from broker.cli import loginkey
    from broker.hostnames import SessionHost

    client = invocation.client
    site = client.site()
    key = loginkey.ensure(client)
    place = client.resolve(site.user, name)
    config = _write_config(site, key)
    straight = {
        "HostName": place.host,
        "Port": str(place.port),
        "HostKeyAlias": SessionHost(place.owner, place.name).canonical(site.domain),
        "ProxyCommand": "none",
    }
    options = [word for option, value in straight.items() for word in ("-o", f"{option}={value}")]
    argv = ["ssh", "-F", str(config), *options, *before, f"{name}.{site.domain}", *after]
    try:
        os.execvp("ssh", argv)  # noqa: S606 - becoming ssh, without a shell, is what this is for
    except OSError as error:
        raise BerthError(f"cannot run ssh: {error.strerror}", hint="install OpenSSH's client") from error


def _write_config(site: SiteView, key: Path) -> Path:
    """Keep the ssh_config of `berth ssh` below the user's state folder; it is written only when it would change."""
    from broker import sshconfig
    from broker.configfile import xdg

    directory = xdg("XDG_STATE_HOME", ".local/state") / "berth" / "ssh"
    return sshconfig.write(directory, site, sshconfig.Way.LOCAL, identity_file=key)


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
