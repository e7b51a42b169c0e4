"""`berth forward`: publish a port of a session as a service."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from broker.service_catalogue import ListedService


@click.command()
@name_argument
@click.argument("port", type=click.IntRange(1, 65535), required=False, metavar="[PORT]")
@click.option("--title", metavar="TITLE", help="The title of the service; default: `Port PORT`.")
@click.option("--remove", is_flag=True, help="Publish the port no longer, and close its connections.")
@json_option
@pass_invocation
def forward(invocation: Invocation, name: str, port: int | None, *, title: str | None, remove: bool) -> None:
    """Publish a port of a session as a service, or list those that are published.

    What you serve on localhost:PORT in the session becomes the service port-PORT, until the session's job ends:
    `berth services NAME` lists it and `berth open NAME SERVICE` opens it, without web access with --local. Your
    server may start later. Without PORT, the command lists the published ports.

    Before anything is sent, each connection is checked: if another user of the node listens on the port, the page says
    so, and that user's server gets no byte.
    """
    from broker.cli.service_list import require_ready

    if port is None and (remove or title is not None):
        raise InvalidInputError(
            "--title and --remove need a port", hint=f"as in `berth forward {name} 8000`; without one, ports are listed"
        )
    if remove and title is not None:
        raise InvalidInputError("--title and --remove exclude each other", hint="give one of them")
    require_ready(invocation, name)
    if port is None:
        _list_ports(invocation, name)
    elif remove:
        _withdraw(invocation, name, port)
    else:
        _publish(invocation, name, port, title or "")


def _list_ports(invocation: Invocation, name: str) -> None:
    ports = _published_ports(invocation, name)
    if invocation.json:
        services = [{"service": each.service.name, "title": each.title, "state": each.state} for each in ports]
        output.print_json({"ports": services})
        return
    if not ports:
        output.print_note(f"{name} has no published ports; as `berth forward {name} 8000` publishes port 8000.")
        return
    rows = [(each.service.name, each.title, each.state) for each in ports]
    output.print_table(("SERVICE", "TITLE", "STATE"), rows, shrink=1)


def _published_ports(invocation: Invocation, name: str) -> list[ListedService]:
    from broker.cli.service_list import ask_for_services

    return [each for each in ask_for_services(invocation, name).services.values() if each.published]


def _publish(invocation: Invocation, name: str, port: int, title: str) -> None:
    from broker.cli.service_definition import define_service
    from broker.client.published_port import MAX_TITLE_CHARS, published_service

    if len(title) > MAX_TITLE_CHARS or not title.isprintable():
        raise InvalidInputError(
            f"--title is not one line of at most {MAX_TITLE_CHARS} characters", hint="shorten it, or omit --title"
        )
    listed = published_service(port, title)
    define_service(invocation, name, listed)
    service, has_portal = listed.service.name, bool(invocation.client.site().portal_url)
    if invocation.json:
        output.print_json({"service": service, "title": listed.title, "path": listed.socket})
        return
    output.print_line(service)
    command = f"`berth open {name} {service}`" if has_portal else f"`berth open {name} {service} --local`"
    output.print_note(f"{command} opens localhost:{port} of {name} in your browser")


def _withdraw(invocation: Invocation, name: str, port: int) -> None:
    from broker.cli.service_list import run_service_program
    from broker.client.published_port import published_service

    service = published_service(port).service.name
    if service not in {each.service.name for each in _published_ports(invocation, name)}:
        raise NotFoundError(
            f"port {port} of {name} is not published", hint=f"`berth forward {name}` lists the published ports"
        )
    run_service_program(invocation, name, "withdraw", service)
    if invocation.json:
        output.print_json({"removed": service})
    else:
        output.print_note(f"port {port} of {name} is published no longer; your server keeps running")
