"""`berth ssh-config`: configure OpenSSH so that `ssh NAME.berth` works without prompts and warnings."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.output import print_json, print_note, write
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from broker.client.ssh_config import Route
    from broker.schema.site import SiteView

ELSEWHERE = "~/.config/berth/known_hosts"
"""The path of known_hosts in the printed configuration."""


@click.command("ssh-config")
@click.option("--install", is_flag=True, help="Make `ssh NAME.berth` work for you on this machine.")
@click.option("--output", metavar="DIR", type=click.Path(path_type=Path), help="Write both files into DIR.")
@click.option("--known-hosts", is_flag=True, help="Print the known_hosts file instead.")
@click.option(
    "--via",
    type=click.Choice(["gateway", "login", "local"]),
    help="The route: the site's gateway, the login node's sshd, or from the login node itself. Default: the gateway if "
    "the site has one, else `local` with --install and `login` without.",
)
@click.option("--gateway", metavar="HOST[:PORT]", help="Use this address of the gateway.")
@click.option("--login", metavar="HOST", help="Use this address of the login node.")
@click.option("--identity", metavar="FILE", type=click.Path(path_type=Path), help="Use this private key and no other.")
@json_option
@pass_invocation
def ssh_config(
    invocation: Invocation,
    *,
    install: bool,
    output: Path | None,
    known_hosts: bool,
    via: str | None,
    gateway: str | None,
    login: str | None,
    identity: Path | None,
) -> None:
    """Print, write or install a configuration of OpenSSH.

    On a laptop without Berth, get it from the login node:

    \b
      mkdir -p ~/.config/berth
      ssh LOGIN berth ssh-config --known-hosts > ~/.config/berth/known_hosts
      ssh LOGIN berth ssh-config > ~/.config/berth/ssh_config

    and make `Include ~/.config/berth/ssh_config` the first line of ~/.ssh/config. --json prints both files.
    `ssh -F DIR/ssh_config NAME.berth` uses the files of --output.
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.client import ssh_config

    if install and (output or known_hosts):
        raise InvalidInputError("--install cannot be combined with --output or --known-hosts")
    site = _as_seen(invocation.client.site(), gateway, login)
    route = _choose_route(site, via, install=install)
    if install or output:
        _write(invocation, site, route, output, identity)
        return
    hosts = ssh_config.render_known_hosts(site)
    config = ssh_config.render_ssh_config(site, route, ELSEWHERE, identity_file=identity, berth=_own_command())
    if invocation.json:
        print_json({"ssh_config": config, "known_hosts": hosts})
    else:
        write(hosts if known_hosts else config)


def _write(invocation: Invocation, site: SiteView, route: Route, output: Path | None, identity: Path | None) -> None:
    """Write both files. A configuration for this machine uses the key of `berth ssh`."""
    from broker.cli import login_key
    from broker.client import ssh_config

    if identity is None and (output is None or route is ssh_config.Route.LOCAL):
        identity = login_key.ensure_certificate(invocation.client, site.login_with)
    if output is not None:
        place = ssh_config.write_ssh_config(
            output.absolute(), site, route, identity_file=identity, berth=_own_command()
        )
        done = f"`ssh -F {place} NAME.{site.domain}` now works"
    else:
        changed = ssh_config.install_ssh_config(Path.home(), site, route, identity_file=identity, berth=_own_command())
        done = f"`ssh NAME.{site.domain}` {'now works' if changed else 'was already installed; updated'}"
    if invocation.json:
        print_json({"via": route.value})
    else:
        print_note(done)


def _choose_route(site: SiteView, via: str | None, *, install: bool) -> Route:
    from broker.client.ssh_config import Route

    if via == Route.GATEWAY and not site.gateway_host:
        raise InvalidInputError("this site runs no gateway", hint="use --via login, through the login node's sshd")
    if via is not None:
        return Route(via)
    if site.gateway_host:
        return Route.GATEWAY
    return Route.LOCAL if install else Route.LOGIN


def _as_seen(site: SiteView, gateway: str | None, login: str | None) -> SiteView:
    """Return the site with the addresses that the user gives, as the client's machine reaches it."""
    seen: dict[str, object] = {}
    if gateway is not None:
        host, colon, port = gateway.partition(":")
        if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65536)):
            raise InvalidInputError(f"--gateway {gateway!r}: expected HOST or HOST:PORT")
        seen |= {"gateway_host": host} | ({"gateway_port": int(port)} if port else {})
    if login is not None:
        seen["login_host"] = login
    return site.model_copy(update=seen)


def _own_command() -> str:
    """Return the command for this program in ssh_config(5), with its full path, since ssh's PATH may lack it."""
    own = Path(sys.argv[0])
    words = (
        [str(own.absolute().with_name("berth"))] if own.name == "berth-cli" else [sys.executable, "-m", "broker.cli"]
    )
    if "BERTH_CONFIG" in os.environ:
        words = ["env", f"BERTH_CONFIG={os.environ['BERTH_CONFIG']}", *words]
    return shlex.join(words).replace("%", "%%")
