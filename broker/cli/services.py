"""The long-running processes, and what an administrator does to them: `berth controller`, `gateway`, `registry`."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import click

from broker.cli import output
from broker.cli.invocation import Invocation, json_option, pass_invocation
from broker.errors import ConflictError


@click.command()
@pass_invocation
def controller(invocation: Invocation) -> None:
    """Run the controller in the foreground, until SIGTERM.

    Site mode: berth-launcher starts it, see docs/quickstart.md. Personal mode: the first command that needs it does.
    """
    from broker.daemon import run_controller

    raise click.exceptions.Exit(run_controller(invocation.config))


@click.command()
@pass_invocation
def gateway(invocation: Invocation) -> None:
    """Run the gateway in the foreground, until SIGTERM."""
    import logging
    import sys

    from broker.gateway.server import run
    from broker.gateway.settings import GatewaySettings

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    config = invocation.config
    settings = config.gateway
    if not settings.enabled:
        raise ConflictError("gateway.enabled is false", hint="in personal mode people come in through the site's sshd")
    run(
        GatewaySettings(
            listen_host=settings.listen_host,
            listen_port=settings.listen_port,
            api_socket=config.api_socket,
            host_key=settings.host_key,
            domain=config.ssh.domain,
        )
    )


@click.group()
def registry() -> None:
    """Look after the database that knows all sessions."""


@registry.command()
@json_option
@pass_invocation
def rebuild(invocation: Invocation) -> None:
    """Bring every session back into a registry that was lost.

    They are found by the manifests beside their files. For root and the service account. Sessions that the
    registry knows are left alone, so it may be repeated.
    """
    report = invocation.client.rebuild()
    if invocation.json:
        output.show_json(report)
        return
    for restored in report.restored:
        output.data(restored)
    for skipped in report.skipped:
        output.narrate(f"skipped {skipped}")
    output.narrate(f"{len(report.restored)} sessions restored, {len(report.skipped)} manifests skipped")
