"""`berth upgrade`: take the version that a session follows now."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import click

from broker.cli.commands.sessions import name_argument, no_wait_option, timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.prompts import announce_restart, check_request, yes_option


@click.command()
@name_argument
@click.option(
    "--fresh",
    is_flag=True,
    help="Leave behind what the session has of its own outside the home: packages and files. A snapshot keeps them.",
)
@yes_option
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def upgrade(invocation: Invocation, name: str, *, fresh: bool, yes: bool, no_wait: bool, timeout: float | None) -> None:
    """Take the version that a session follows now.

    Without this command, the session takes it the next time it starts. A running session is stopped, after a question,
    and started again under its name. A snapshot keeps the present state, and the command prints how to return to it.

    Then the profile's checks and ~/.config/berth/check run in the session, if there are any. If one fails, or if the
    session does not become ready, it returns to its present version, and does not take the new one by itself any more.

    If the session has packages or files of its own outside the home, nothing is changed, and the command names them.
    """
    from broker.cli.wait import finish_operation, show_request_progress
    from broker.schema.volumes import UpgradeRequest
    from broker.text.question import UPGRADE_PLAN

    request = UpgradeRequest(fresh=fresh)
    report = check_request(invocation, name, yes=yes, upgrade=request)
    announce_restart(invocation, report, UPGRADE_PLAN, undone=f"{name} was not upgraded", yes=yes)
    with show_request_progress(invocation, name, "upgrade"):
        view = invocation.client.upgrade(name, request)
    finish_operation(invocation, view, f"upgraded {name}", no_wait=no_wait, timeout=timeout)
