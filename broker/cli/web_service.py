"""Open a service of a session in a browser, by the site's web access."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.cli.service_definition import define_service
from broker.cli.service_list import ask_for_services, find_service
from broker.text.ide_links import LINKS

if TYPE_CHECKING:
    from broker.cli.context import Invocation


def open_in_browser(invocation: Invocation, name: str, service: str, *, only_print: bool) -> None:
    """Start a stopped session, and print a link to the service. The browser shows how the service starts.

    A session of another user, `OWNER.NAME`, is not started. RefusedError without web access; NotFoundError if the
    session has no such service.
    """
    from broker.cli.web_login import log_browser_in, require_web_access
    from broker.schema.web import Target

    if "." in name:
        require_web_access(invocation, "services of other users' sessions are opened by the site's web access alone")
        log_browser_in(invocation, Target(session=name, service=service), only_print=only_print)
        return
    local = f"`berth open {name} {service} --local` opens {service} on this machine"
    require_web_access(invocation, f"{local}; IDEs are {', '.join(LINKS)}")
    listed = find_service(name, service, ask_for_services(invocation, name).services)
    if listed.own:
        define_service(invocation, name, listed)
    log_browser_in(invocation, Target(session=name, service=service), only_print=only_print)
