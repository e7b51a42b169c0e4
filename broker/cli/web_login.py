"""Log a browser in with a link, which leads to the portal or to a service."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.cli import output
from broker.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.cli.context import Invocation


def require_web_access(invocation: Invocation, remedy: str) -> None:
    """Return if the site has web access. RefusedError names the remedy."""
    site = invocation.client.read_site()
    if not site.portal_url:
        where = "personal mode" if site.mode == "personal" else "this site"
        raise RefusedError(f"{where} has no web access", hint=remedy)


def log_browser_in(invocation: Invocation, target: Mapping[str, str] | None, *, only_print: bool) -> None:
    """Print a link that logs a browser in, with its code, and open it where there is a display.

    `target`: the fields of the service to which it leads, as of Client.make_link.
    """
    from broker.cli.browser import open_secret_address

    link = invocation.client.make_link(target)
    if invocation.json:
        output.print_json(link)
        return
    output.print_line(link.url)
    output.print_note(f"or type the code {link.code} at {link.login_url}")
    seconds = max(0, round(link.expires_at - time.time()))
    output.print_note(f"it logs one browser in as you, within {seconds} s; keep it to yourself")
    if not only_print:
        open_secret_address(link.url)
