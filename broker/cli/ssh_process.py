"""Build the ssh(1) command line that connects directly to a session's sshd."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from broker.errors import BerthError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from broker.cli.context import Invocation
    from broker.client.client import Client
    from broker.schema.connections import ResolveAnswer
    from broker.schema.site import SiteView


def cannot_run(error: OSError) -> BerthError:
    """Return the error for a machine without ssh(1)."""
    return BerthError(f"cannot run ssh: {error.strerror}", hint="install OpenSSH's client")


def ssh_command(
    invocation: Invocation, name: str, *, before: Sequence[str], after: Sequence[str], root: bool = False
) -> list[str]:
    """The ssh(1) that talks straight to the session, as its owner or as its root; raises what the controller refuses
    with.
    """
    from broker.cli import login_key
    from broker.ssh.host_names import SessionHost

    client = invocation.client
    site = client.site()
    key = login_key.ensure_certificate(client, site.login_with)
    place = _place(client, site.user, name, root=root)
    _note(client, site.user, place)
    config = _write_config(site, key)
    straight = {
        "HostName": place.host,
        "Port": str(place.port),
        "HostKeyAlias": SessionHost(place.owner, place.name).canonical(site.domain),
        "ProxyCommand": "none",
    } | ({"User": "root"} if root else {})
    options = [word for option, value in straight.items() for word in ("-o", f"{option}={value}")]
    return ["ssh", "-F", str(config), *options, *before, f"{name}.{site.domain}", *after]


def _place(client: Client, user: str, name: str, *, root: bool) -> ResolveAnswer:
    """Return where the session listens; show a line of progress while the command waits for it."""
    from broker.cli.progress import ProgressLine

    with ProgressLine() as progress:
        return client.resolve(user, name, root=root, tell=progress.show)


def _note(client: Client, user: str, place: ResolveAnswer) -> None:
    """Record the connection with the controller: ssh goes straight to the session, past the gateway."""
    from broker.client.proxy_command import client_address
    from broker.names import new_id
    from broker.schema.connections import ConnectionRecord

    now = time.time()
    record = ConnectionRecord(
        id=new_id(now),
        user=user,
        peer=client_address(),
        session_id=place.session_id,
        generation=place.generation,
        began_at=now,
        ended_at=now,
        end="not followed",
    )
    with contextlib.suppress(BerthError):
        client.note(record)


def _write_config(site: SiteView, key: Path) -> Path:
    """Keep the ssh_config of `berth ssh` below the user's state folder; it is written only when it would change."""
    from broker.client import ssh_config
    from broker.config.file import xdg_directory

    directory = xdg_directory("XDG_STATE_HOME", ".local/state") / "berth" / "ssh"
    return ssh_config.write_ssh_config(directory, site, ssh_config.Route.LOCAL, identity_file=key)
