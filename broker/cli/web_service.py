"""Open a service of a session in a browser, by the site's web access."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.text.ide_links import LINKS

if TYPE_CHECKING:
    from broker.cli.context import Invocation


def open_in_browser(invocation: Invocation, name: str, service: str, *, only_print: bool) -> None:
    """Start a stopped session, and print a link to the service. The browser shows how the service starts.

    A session of another user, `OWNER.NAME`, is not started. RefusedError without web access; NotFoundError if the
    session has no such service.
    """
    from broker.cli.web_login import log_browser_in, require_web_access

    target = {"session": name, "service": service}
    if "." in name:
        require_web_access(invocation, "services of other users' sessions are opened by the site's web access alone")
        log_browser_in(invocation, target, only_print=only_print)
        return
    local = f"`berth open {name} {service} --local` opens {service} on this machine"
    require_web_access(invocation, f"{local}; IDEs are {', '.join(LINKS)}")
    if _is_declared(invocation, name, service):
        # Afterwards, so that the user need not wait for the session's own list: a login in a browser takes longer.
        log_browser_in(invocation, target, only_print=only_print)
        with contextlib.suppress(BerthError):  # the link is valid; the page says why a session does not answer
            _define_own(invocation, name, service)
        return
    _define_own(invocation, name, service)
    log_browser_in(invocation, target, only_print=only_print)


def _is_declared(invocation: Invocation, name: str, service: str) -> bool:
    """Whether the session is ready and its profile declares the service, as far as the controller knows."""
    if invocation.client.read_session(name).state.value != "ready":
        return False
    try:
        return any(each.name == service and not each.added for each in invocation.client.read_services(name))
    except BerthError:  # such as an image that is gone; the session itself may still answer
        return False


def _define_own(invocation: Invocation, name: str, service: str) -> None:
    """Define the service in the session if the user's own files there define it. NotFoundError without the service."""
    from broker.cli.service_definition import define_service
    from broker.cli.service_list import ask_for_services, find_service

    listed = find_service(name, service, ask_for_services(invocation, name).services)
    if listed.own:
        define_service(invocation, name, listed)
