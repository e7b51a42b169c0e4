"""`berth services`: list the services of a session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation


@click.command("services")
@name_argument
@json_option
@pass_invocation
def list_session_services(invocation: Invocation, name: str) -> None:
    """List the services of a session, with their states.

    A service is a web application that runs in the session, such as a terminal or JupyterLab. Its profile declares
    some; you can add others in ~/.config/berth/services.d in the session. `berth open NAME SERVICE --local` opens one.
    """
    from broker.cli.service_list import ask_for_services, require_ready

    require_ready(invocation, name)
    found = ask_for_services(invocation, name).services.values()
    if invocation.json:
        services = [
            each.service.model_dump(mode="json") | {"state": each.state, "own": each.own, "path": each.socket}
            for each in found
        ]
        output.print_json({"services": services})
        return
    if not found:
        output.print_note(f"{name} has no services: its profile declares none.")
        return
    output.print_table(
        ("SERVICE", "TITLE", "STATE", "FROM", "DESCRIPTION"),
        [
            (each.service.name, each.title, each.state, "you" if each.own else "profile", each.service.description)
            for each in found
        ],
        shrink=4,
    )
