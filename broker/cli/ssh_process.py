"""Build the ssh(1) command line that connects directly to a session's sshd."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

from broker.errors import BerthError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from broker.cli.connection_end import SshConnection
    from broker.cli.context import Invocation
    from broker.client.client import Client
    from broker.schema.connections import ResolveAnswer
    from broker.schema.site import SiteView


def cannot_run(error: OSError) -> BerthError:
    """Return the error for a machine without ssh(1)."""
    return BerthError(f"cannot run ssh: {error.strerror}", hint="install OpenSSH's client")


def find_ssh() -> None:
    """Return if the machine has ssh(1). Raises BerthError."""
    import shutil

    if shutil.which("ssh") is None:
        raise cannot_run(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


def ssh_command(
    invocation: Invocation, name: str, *, before: Sequence[str], after: Sequence[str], root: bool = False
) -> tuple[list[str], SshConnection]:
    """Return the ssh(1) command that connects directly to the session, as its owner or root, and where it connects to.

    Raises the error with which the controller refuses.
    """
    from broker.cli import login_key
    from broker.cli.connection_end import SshConnection
    from broker.ssh.host_names import SessionHost

    client = invocation.client
    site = client.site()
    key = login_key.ensure_certificate(client, site.login_with)
    endpoint = _resolve(client, site.user, name, root=root)
    _record_connection(client, site.user, endpoint)
    config = write_config(site, key)
    direct = {
        "HostName": endpoint.host,
        "Port": str(endpoint.port),
        "HostKeyAlias": SessionHost(endpoint.owner, endpoint.name).canonical_name(site.domain),
        "ProxyCommand": "none",
    } | ({"User": "root"} if root else {})
    options = [word for option, value in direct.items() for word in ("-o", f"{option}={value}")]
    command = ["ssh", "-F", str(config), *options, *before, f"{name}.{site.domain}", *after]
    return command, SshConnection(name, endpoint.generation, endpoint.host, endpoint.port)


def _resolve(client: Client, user: str, name: str, *, root: bool) -> ResolveAnswer:
    """Return the session's endpoint; show a line of progress while the session starts."""
    from broker.cli.progress import ProgressLine

    with ProgressLine() as progress:
        return client.resolve(user, name, root=root, tell=progress.show)


def _record_connection(client: Client, user: str, endpoint: ResolveAnswer) -> None:
    """Report the connection to the controller: the gateway does not see it."""
    from broker.client.proxy_command import client_address
    from broker.names import new_id
    from broker.schema.connections import NOT_FOLLOWED, ConnectionRecord

    now = time.time()
    record = ConnectionRecord(
        id=new_id(now),
        user=user,
        peer=client_address(),
        session_id=endpoint.session_id,
        generation=endpoint.generation,
        began_at=now,
        ended_at=now,
        end=NOT_FOLLOWED,
    )
    with contextlib.suppress(BerthError):
        client.note(record)


def write_config(site: SiteView, key: Path) -> Path:
    """Write the ssh_config of `berth ssh` below the user's state directory, if it changed."""
    from broker.client import ssh_config
    from broker.config.file import xdg_directory

    directory = xdg_directory("XDG_STATE_HOME", ".local/state") / "berth" / "ssh"
    return ssh_config.write_ssh_config(directory, site, ssh_config.Route.LOCAL, identity_file=key)
