"""Open a service of a session in a browser, by the site's web access."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

from broker.cli.service_list import LIST_LIMIT_S, ask_for_services, check_end, find_service, start_refused
from broker.errors import BerthError
from broker.text.ide_links import LINKS

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from broker.client.service_catalogue import ListedService

MAX_REPORT_BYTES = 64 << 10
"""Limit for the report until its first state."""


def open_in_browser(invocation: Invocation, name: str, service: str, *, only_print: bool) -> None:
    """Start a stopped session, and print a link to the service. The browser shows how the service starts.

    RefusedError without web access; NotFoundError if the session has no such service.
    """
    from broker.cli.web_login import log_browser_in, require_web_access
    from broker.schema.web import Target

    local = f"`berth open {name} {service} --local` opens {service} on this machine"
    require_web_access(invocation, f"{local}; IDEs are {', '.join(LINKS)}")
    listed = find_service(name, service, ask_for_services(invocation, name).services)
    if listed.own:
        _define(invocation, name, listed)
    log_browser_in(invocation, Target(session=name, service=service), only_print=only_print)


def _define(invocation: Invocation, name: str, listed: ListedService) -> None:
    """Start a service of the user's own files, whose definition the session keeps from then on.

    berth-web cannot read these files, and so cannot start the service before.
    """
    from broker.cli.ssh_process import ssh_command
    from broker.client.service_catalogue import remote_command

    command = remote_command("attach", listed.service.name)
    argv, _ = ssh_command(invocation, name, before=["-T", "-o", "LogLevel=ERROR"], after=["--", command])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        limit = threading.Timer(LIST_LIMIT_S, process.kill)
        limit.start()
        try:
            started = _read_state(process, name, listed)
            if started:
                process.terminate()
        finally:
            limit.cancel()
    if not started:
        check_end(name, process.returncode)
        raise BerthError(f"{name} did not start {listed.service.name}", hint=f"`berth services {name}` shows its state")


def _read_state(process: subprocess.Popen[bytes], name: str, listed: ListedService) -> bool:
    """Return whether the report has the service's state. Raises BerthError if the session refuses to start it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(listed.request.encode())
    process.stdin.flush()
    left = MAX_REPORT_BYTES
    while line := process.stdout.readline(left):
        left -= len(line)
        word, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
        if word == "refused":
            process.terminate()
            raise start_refused(name, listed.service.name, text)
        if word == "state":
            return True
    return False
