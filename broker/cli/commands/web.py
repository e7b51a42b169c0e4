"""`berth portal` and `berth browsers`: log browsers in, list them, and log them out."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.errors import InvalidInputError
from broker.format import pluralize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.web import BrowserView, LogoutAnswer


@click.command()
@click.option("--print", "only_print", is_flag=True, help="Print the link, and open nothing.")
@json_option
@pass_invocation
def portal(invocation: Invocation, *, only_print: bool) -> None:
    """Open the portal: your sessions in the browser.

    Prints a link that logs one browser in as you, once and within a minute, and opens it where there is a display. A
    browser without scripts asks for the code that is printed too. `berth browsers` lists the browsers that are logged
    in.
    """
    from broker.cli.web_login import log_browser_in, require_web_access

    require_web_access(invocation, "`berth tui` shows your sessions, `berth open NAME SERVICE --local` opens a service")
    log_browser_in(invocation, None, only_print=only_print)


@click.command()
@click.option("--logout", metavar="ID", help="Log this browser out, and close its connections.")
@click.option("--logout-all", is_flag=True, help="Log all of your browsers out.")
@json_option
@pass_invocation
def browsers(invocation: Invocation, *, logout: str | None, logout_all: bool) -> None:
    """List the browsers that are logged in as you, or log them out.

    A logout closes the open connections of the browser, such as terminals and notebooks, before the command returns.
    What runs in the session keeps running.
    """
    if logout is not None and logout_all:
        raise InvalidInputError("--logout and --logout-all exclude each other", hint="give one of them")
    if logout is not None or logout_all:
        _print_logout(invocation, invocation.client.log_browsers_out(logout))
        return
    found = invocation.client.browsers()
    if invocation.json:
        output.print_json({"browsers": [each.model_dump(mode="json") for each in found]})
    elif found:
        _print_browsers(found)
    else:
        output.print_note("You have no logged-in browsers; `berth portal` logs one in.")


def _print_browsers(found: Sequence[BrowserView]) -> None:
    from broker.format import format_time

    now = time.time()
    rows = [
        (
            each.id,
            each.address,
            each.login,
            *(format_time(at, now) for at in (each.created_at, each.used_at, each.expires_at)),
            each.browser,
        )
        for each in found
    ]
    output.print_table(("ID", "ADDRESS", "LOGIN", "SINCE", "USED", "UNTIL", "BROWSER"), rows, shrink=6)


def _print_logout(invocation: Invocation, answer: LogoutAnswer) -> None:
    if invocation.json:
        output.print_json(answer)
        return
    for each in answer.ended:
        output.print_line(each.id)
    note = f"{pluralize(len(answer.ended), 'browser')} logged out"
    closed = "all connections are closed" if answer.closed else "berth-web has not yet closed the connections"
    output.print_note(f"{note}; {closed}" if answer.ended else note)
