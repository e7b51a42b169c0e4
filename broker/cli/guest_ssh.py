"""Build the ssh(1) command line with which a guest sees the shown terminals of another user's session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.cli.context import Invocation


def guest_command(invocation: Invocation, reference: str, after: Sequence[str]) -> list[str]:
    """Return the ssh(1) command for the session `OWNER.NAME`. Raises the error with which the controller refuses.

    ssh runs `berth connect`, which reports the connection until its end: a guest without a known connection loses the
    access after some minutes.
    """
    from broker.cli import login_key
    from broker.cli.ssh_process import write_config

    client = invocation.client
    site = client.site()
    key = login_key.ensure_certificate(client, site.login_with)
    host = f"{reference}.{site.domain}"
    client.resolve(site.user, host)
    return ["ssh", "-F", str(write_config(site, key)), host, *after]
