"""`berth controller`, `gateway`, `web` and `registry`: run the services, and administer them."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.errors import ConflictError
from broker.format import pluralize

if TYPE_CHECKING:
    from broker.config.settings import Config
    from broker.gateway.master import MetricsTarget
    from broker.gateway.settings import GatewaySettings
    from broker.web.settings import WebProcessSettings


@click.command()
@pass_invocation
def controller(invocation: Invocation) -> None:
    """Run the controller in the foreground, until SIGTERM.

    In site mode, berth-launcher starts it; see docs/quickstart.md. In personal mode, the first command starts it.
    """
    from broker.controller.process import run_controller

    raise click.exceptions.Exit(run_controller(invocation.config))


@click.command()
@click.option("--check", is_flag=True, help="Only check whether it can start with the present configuration.")
@click.option("--worker", is_flag=True, hidden=True)
@pass_invocation
def gateway(invocation: Invocation, check: bool, worker: bool) -> None:
    """Run the gateway in the foreground, until SIGTERM.

    On SIGHUP it loads the present program and configuration; open connections are kept.
    """
    from broker.gateway import master
    from broker.gateway import worker as one_worker
    from broker.service import journal

    journal.configure_logging("berth-gateway")
    config = invocation.config
    if not config.gateway.enabled:
        raise ConflictError("gateway.enabled is false", hint="in personal mode, use the site's sshd instead")
    settings = _gateway_settings(config)
    if check:
        return
    if worker:
        one_worker.run_worker(settings)
    else:
        address = master.Address(settings.listen_host, settings.listen_port)
        numbers = _numbers(config, settings)
        master.run_master(address, config.gateway_workers, numbers, worker_timeout=config.gateway.worker_timeout)


def _numbers(config: Config, settings: GatewaySettings) -> MetricsTarget | None:
    from broker.config.setting_types import parse_host_and_port
    from broker.gateway.master import Address, MetricsTarget

    if config.gateway.metrics_listen is None or settings.metrics_directory is None:
        return None
    return MetricsTarget(settings.metrics_directory, Address(*parse_host_and_port(config.gateway.metrics_listen)))


def _gateway_settings(config: Config) -> GatewaySettings:
    from ipaddress import ip_network

    from broker.gateway.settings import GatewaySettings
    from broker.ssh.max_startups import MaxStartups

    gateway = config.gateway
    return GatewaySettings(
        listen_host=gateway.listen_host,
        listen_port=gateway.listen_port,
        api_socket=config.api_socket,
        host_key=gateway.host_key,
        domain=config.ssh.domain,
        answer_timeout=config.ssh.answer_timeout,
        max_startups=MaxStartups.parse(gateway.max_startups),
        metrics_directory=gateway.host_key.parent / "metrics" if gateway.metrics_listen else None,
        penalty_exempt=tuple(ip_network(each) for each in gateway.penalty_exempt),
        max_user_connections=gateway.max_user_connections,
        max_user_forwards=gateway.max_user_forwards,
        max_user_window_bytes=gateway.max_user_window,
    )


@click.command()
@pass_invocation
def web(invocation: Invocation) -> None:
    """Run berth-web, the gateway for browsers, in the foreground until SIGTERM.

    On SIGHUP it reloads HAProxy with the present certificate; open connections are kept.
    """
    from broker.web.process import run_web

    run_web(_web_settings(invocation.config))


def _web_settings(config: Config) -> WebProcessSettings:
    from broker.config.setting_types import parse_host_and_port, parse_socket_or_port
    from broker.origins import Origins
    from broker.web.settings import WebProcessSettings

    if config.web.url is None or not config.has_web:
        raise ConflictError("this site has no web access", hint="set web.url: see docs/howto/site.md")
    return WebProcessSettings(
        origins=Origins.parse(config.web.url),
        listen=parse_socket_or_port(config.web.listen),
        certificate=config.web.certificate,
        api_socket=config.api_socket,
        idle_tunnel=config.web.idle_tunnel,
        address_connections=config.web.address_connections,
        provider=config.web.oidc.name if config.web.oidc.issuer is not None else "",
        directory=config.web.runtime_dir,
        metrics_listen=None if config.web.metrics_listen is None else parse_host_and_port(config.web.metrics_listen),
    )


@click.group()
def registry() -> None:
    """Manage the database of sessions."""


@registry.command()
@json_option
@pass_invocation
def rebuild(invocation: Invocation) -> None:
    """Rebuild a lost registry from the sessions' manifests.

    Sessions that are in the registry are not changed, so the command may be repeated. For root and the service
    account.
    """
    report = invocation.client.rebuild()
    if invocation.json:
        output.print_json(report)
        return
    for restored in report.restored:
        output.print_line(restored)
    for skipped in report.skipped:
        output.print_note(f"skipped {skipped}")
    restored = pluralize(len(report.restored), "session")
    output.print_note(f"{restored} restored, {pluralize(len(report.skipped), 'manifest')} skipped")
