"""Configuration of OpenSSH's client for `ssh dev.berth` without prompts and warnings (ssh_config(5), sshd(8)).

Host keys are vouched for by the broker's certificate authority: one `@cert-authority` line holds for every session,
wherever it runs. OpenSSH 7.3 and newer read what is written here.
"""

from __future__ import annotations

import os
import pwd
import secrets
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from broker.errors import InvalidInputError
from broker.ssh.host_names import GUEST_LOGIN, SEPARATOR, gateway_host

if TYPE_CHECKING:
    from broker.schema.site import SiteView

BEGIN = b"# >>> berth >>>"
END = b"# <<< berth <<<"

MAX_READ_BYTES = 1 << 20
"""Limit for the part of ~/.ssh/config that is searched for the block, which `install_ssh_config` puts at its top."""

CONFIG_NAME = "ssh_config"
KNOWN_HOSTS_NAME = "known_hosts"


class Route(StrEnum):
    """The routes of ssh to a session."""

    GATEWAY = "gateway"
    """From anywhere, through the site's gateway."""
    LOGIN = "login"
    """From anywhere, through the site's own sshd: personal mode."""
    LOCAL = "local"
    """On the login node itself: `berth ssh` in either mode, and `ssh-config --install` in personal mode."""


def render_known_hosts(site: SiteView) -> str:
    """Return the known_hosts file: the authorities for sessions and gateway, and revoked keys."""
    marked = [f"@cert-authority *.{site.domain} {_key(line)}" for line in site.ca_public_keys]
    marked += [f"@revoked * {_key(line)}" for line in site.revoked_host_keys]
    return "# Berth's certificate authority, and revoked host keys\n" + "".join(f"{line}\n" for line in marked)


def render_ssh_config(
    site: SiteView,
    route: Route,
    known_hosts_file: Path | str,
    *,
    identity_file: Path | None = None,
    berth: str = "berth",
) -> str:
    """Return the ssh_config file.

    With `identity_file`, ssh uses only that key. `berth` is the command that Route.LOCAL calls, if it is not on PATH.
    The security settings come first, so they have precedence over the user's own file.
    """
    common = [
        f"User {site.user}",
        f"UserKnownHostsFile {_quote(known_hosts_file)}",
        "GlobalKnownHostsFile /dev/null",
        "StrictHostKeyChecking yes",
        "UpdateHostKeys no",
        "VerifyHostKeyDNS no",
        "CanonicalizeHostname no",
        "ForwardAgent no",
        "ForwardX11 no",
        "ServerAliveInterval 15",
        "ServerAliveCountMax 3",
        # A path with %r@%h is longer than a socket's may be (108 bytes, unix(7)) for long names; %C is 40 characters.
        "ControlPath ~/.ssh/%C",
        *([f"IdentityFile {_quote(identity_file)}", "IdentitiesOnly yes"] if identity_file else []),
    ]
    jump = f"{site.domain}-gateway"
    through = {
        # The gateway has to know the session at the login, to show its state and no other's. ssh replaces %h.
        Route.GATEWAY: f"ProxyJump {site.user}{SEPARATOR}%h@{jump}",
        Route.LOGIN: f"ProxyCommand ssh -a -x -T -l {site.user} {site.login_host} berth connect %h",
        Route.LOCAL: f"ProxyCommand {berth} connect %h",
    }
    blocks = [
        "# Made by `berth ssh-config`, which also overwrites it.",
        _block(f"*.{site.domain} !*.*.{site.domain}", [f"HostName {site.user}.%h"]),
        _block(f"*.*.{site.domain} !{site.user}.*.{site.domain}", [f"User {GUEST_LOGIN}"]),
        _block(f"*.{site.domain}", ["Port 22", through[route], *common]),
    ]
    if route is Route.GATEWAY:
        where = [
            f"HostName {site.gateway_host}",
            f"Port {site.gateway_port}",
            f"HostKeyAlias {gateway_host(site.domain)}",
            "PreferredAuthentications publickey",  # the gateway knows no passwords: never ask for one
        ]
        blocks.append(_block(jump, [*where, *common]))
    return "\n".join(blocks)


def write_ssh_config(
    directory: Path, site: SiteView, route: Route, *, identity_file: Path | None = None, berth: str = "berth"
) -> Path:
    """Write both files into `directory`, made if missing, and return the ssh_config's path: for `ssh -F`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    hosts = directory / KNOWN_HOSTS_NAME
    config = directory / CONFIG_NAME
    _replace(hosts, render_known_hosts(site).encode())
    text = render_ssh_config(site, route, _as_user_writes(hosts), identity_file=identity_file, berth=berth)
    _replace(config, text.encode())
    return config


def install_ssh_config(
    home: Path, site: SiteView, route: Route, *, identity_file: Path | None = None, berth: str = "berth"
) -> bool:
    """Make `ssh NAME.<domain>` work for the owner of `home`; True when ~/.ssh/config had to be changed.

    Writes ~/.config/berth/ and one managed block, which includes it, at the top of ~/.ssh/config: an Include further
    down would belong to the Host block above it, and OpenSSH takes the first value it meets. All else in the file
    stays as it is, byte for byte, as do its mode and a symbolic link in its place. InvalidInputError when the block
    is damaged.
    """
    included = write_ssh_config(home / ".config" / "berth", site, route, identity_file=identity_file, berth=berth)
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    # A dotfiles repository may have a link here: its file is to change, not the link.
    config = (ssh / "config").resolve()
    before = config.read_bytes() if config.exists() else b""
    try:
        after = with_block(before, f'Include "{_as_user_writes(included)}"')
    except ValueError as error:
        raise InvalidInputError(
            f"{config}: {error}",
            hint=f"remove the lines between {BEGIN.decode()!r} and {END.decode()!r}, and both of these",
        ) from error
    if after == before:
        return False
    _replace(config, after)
    return True


def is_installed(home: Path) -> bool:
    """Whether ~/.ssh/config of the owner of `home` has the managed block, so that `ssh NAME.<domain>` works."""
    try:
        with (home / ".ssh/config").open("rb") as file:
            return BEGIN in file.read(MAX_READ_BYTES)
    except OSError:
        return False


def login_command(name: str, domain: str) -> str:
    """Return the command with which this user logs in to a session from this machine."""
    return f"ssh {name}.{domain}" if is_installed(Path.home()) else f"berth ssh {name}"


def with_block(content: bytes, line: str) -> bytes:
    """Put the managed block with `line` at the top, and take away the one that was there.

    ValueError when a block has no end or no beginning: then it is not clear what is ours.
    """
    return b"\n".join((BEGIN, line.encode(), END, without_block(content)))


def without_block(content: bytes) -> bytes:
    """Return the file without the managed block; ValueError as in `with_block`."""
    kept = []
    inside = False
    for line in content.split(b"\n"):
        mark = line.strip()
        if mark in {BEGIN, END} and inside == (mark == BEGIN):
            raise ValueError(f"{mark.decode()!r} without its counterpart")
        if mark == BEGIN:
            inside = True
        elif mark == END:
            inside = False
        elif not inside:
            kept.append(line)
    if inside:
        raise ValueError(f"{BEGIN.decode()!r} without its counterpart")
    return b"\n".join(kept)


def _key(line: str) -> str:
    """A public key without its comment."""
    return " ".join(line.split()[:2])


def _block(pattern: str, settings: list[str]) -> str:
    return f"Host {pattern}\n" + "".join(f"    {setting}\n" for setting in settings)


def _quote(path: Path | str) -> str:
    """Quote a path for ssh_config(5), where `%` begins a token and a quote cannot be escaped everywhere."""
    text = str(path)
    if '"' in text or "\n" in text:
        raise InvalidInputError(f"OpenSSH cannot read a path with a quotation mark: {text}")
    return '"' + text.replace("%", "%%") + '"'


def _as_user_writes(path: Path) -> str:
    """Shorten to `~/…` where that means the same to ssh(1): shared dotfiles then fit every machine.

    ssh takes `~` from the password database in most settings, but from $HOME in Include.
    """
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    if home == Path.home() and path.is_relative_to(home):
        return f"~/{path.relative_to(home)}"
    return str(path)


def _replace(path: Path, content: bytes) -> None:
    """Write atomically, if that changes anything; an existing file keeps its mode, a new one is its owner's alone."""
    if path.exists() and path.read_bytes() == content:
        return
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
